"""A whole pass between sender and receiver, over lanes that lose, damage, duplicate and reorder; the sink may crash.

Two lanes put cells on the wire; what a lane reports (``reported``) and what the sink acknowledges come in any order.
The model of the volume knows what was flushed; a crash drops the rest. At the end the volume must equal the source.
"""

from __future__ import annotations

import random
from collections import deque

import pytest
import zstandard
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from coriolis.errors import Corrupt, StaleGeneration
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, cell_length, complement
from coriolis.transfer.codec import (
    HEADER_BYTES,
    Frame,
    FrameKind,
    blocks_bytes,
    data_frame,
    decode,
    decode_acks,
    encode,
)
from coriolis.transfer.journal import Opening, opening_record, range_records, replay
from coriolis.transfer.receiver import FLUSH_BYTES, WINDOW_BYTES, Receiver, Write
from coriolis.transfer.sender import MAX_REJECTS_PER_CELL, MAX_UNDURABLE_BYTES, Batch, Plan, Sender

CELLS = 6
WINDOW = 3 * CELL_BYTES
UNDURABLE = 4 * CELL_BYTES
LANES = 2
PACKER = zstandard.ZstdCompressor(level=1, write_content_size=True)


class FakeVolume:
    """Bytes now, and bytes that a power cut would leave."""

    def __init__(self, size: int) -> None:
        self.now = bytearray(size)
        self.safe = bytes(size)

    def apply(self, operation: object) -> None:
        if isinstance(operation, Write):
            self.now[operation.offset : operation.offset + len(operation.data)] = operation.data
        else:
            self.now[operation.offset : operation.offset + operation.length] = bytes(operation.length)  # type: ignore[attr-defined]

    def flush(self) -> None:
        self.safe = bytes(self.now)

    def power_cut(self, rng: random.Random, touched: list[int]) -> None:
        """Unflushed cells keep, at random, their old or new content: nothing may rely on either."""
        for cell in touched:
            if rng.random() < 0.5:
                start = cell * CELL_BYTES
                self.now[start : start + CELL_BYTES] = self.safe[start : start + CELL_BYTES]
        self.safe = bytes(self.now)


class PassMachine(RuleBasedStateMachine):
    @initialize(tail=st.sampled_from([0, 1, 511, CELL_BYTES - 1]), seed=st.integers(0, 2**32))
    def begin(self, tail: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.size = CELLS * CELL_BYTES - tail
        self.source = bytearray(self.size)
        self.data = [cell for cell in range(CELLS) if self.rng.random() < 0.6]
        for cell in self.data:
            if self.rng.random() < 0.8:  # some allocated cells hold only zeros
                at = cell * CELL_BYTES + self.rng.randrange(cell_length(cell, self.size))
                self.source[at] = self.rng.randrange(1, 256)
        self.volume = FakeVolume(self.size)
        self.sink_journal = b""
        self.source_journal = b""
        self.generation = 0
        self.touched: list[int] = []
        self.attempt()

    def attempt(self) -> None:
        """Both sides anew, one generation higher, from their journals."""
        self.generation += 1
        opening = Opening("t", "d", self.size, self.generation, 1, "snap")
        fresh = not self.sink_journal
        self.sink_journal += opening_record(opening)
        self.source_journal += opening_record(opening)
        sink, source = replay(self.sink_journal), replay(self.source_journal)
        assert sink.table is not None
        assert source.table is not None
        self.receiver = Receiver(self.size, self.generation, sink.table, unwritten_is_zero=fresh)
        data = [Run(cell, 1) for cell in self.data]
        zero = complement(data, cell_count(self.size))
        self.sender = Sender(
            self.size, Plan(tuple(data), tuple(zero)), self.generation, window_bytes=WINDOW, undurable_bytes=UNDURABLE
        )
        both = set(_cells(sink.table.known_runs())) & set(_cells(source.table.known_runs()))
        self.sender.skip(source.table, [Run(cell, 1) for cell in sorted(both)])
        self.given: dict[int, deque[Run]] = {}
        """Work of each lane that it has not put on the wire; a lane's number is used once, as by the shell."""
        self.wires: dict[int, list[bytes]] = {}
        self.unreported: list[tuple[int, Frame]] = []
        self.next_lane = 0
        for _ in range(LANES):
            self.open_lane()
        self.old_wire: list[bytes] = []
        self.acks: list[bytes] = []
        self.shown = 0

    def open_lane(self) -> None:
        self.given[self.next_lane], self.wires[self.next_lane] = deque(), []
        self.next_lane += 1

    @rule(pick=st.integers(0, LANES - 1), most=st.integers(1, 2 * CELL_BYTES))
    def assign(self, pick: int, most: int) -> None:
        lane = sorted(self.given)[pick]
        batch = self.sender.assign(lane, most)
        if batch is not None:
            assert batch != Batch()
            self.given[lane] += [*batch.zero, *(Run(cell, 1) for cell in _cells([*batch.data]))]
        assert self.sender.in_flight_bytes <= WINDOW
        assert self.sender.undurable_sent_bytes <= UNDURABLE
        assert sum(self.sender.lane_cost(each) for each in self.given) == self.sender.in_flight_bytes

    @rule(pick=st.integers(0, LANES - 1), compressed=st.booleans())
    def send(self, pick: int, compressed: bool) -> None:
        lane = sorted(self.given)[pick]
        if not self.given[lane]:
            return
        run = self.given[lane].popleft()
        if run.first in self.data:
            start = run.first * CELL_BYTES
            cell = bytes(self.source[start : start + cell_length(run.first, self.size)])
            frame = data_frame(self.generation, run.first, cell, PACKER if compressed else None)
        else:
            frame = Frame(FrameKind.ZERO, self.generation, run.first, run.count)
        self.wires[lane].append(encode(frame))
        self.unreported.append((lane, frame))

    @precondition(lambda self: self.unreported)
    @rule(pick=st.integers(0, 100))
    def report(self, pick: int) -> None:
        """Before or after the cell's acks, as it comes; of a lost lane too."""
        self.hear(self.unreported.pop(pick % len(self.unreported)))

    def hear(self, report: tuple[int, Frame]) -> None:
        lane, frame = report
        data = frame.kind is FrameKind.DATA
        durable = self.sender.reported(
            lane,
            frame.cell,
            frame.digest if data else None,
            payload_bytes=blocks_bytes(frame.bitmap, frame.length) if data else 0,
            wire_bytes=HEADER_BYTES + len(frame.payload),
        )
        self.record(durable)

    def record(self, durable: list[Run]) -> None:
        """As the shell does: what the sink called durable goes to the source's journal, with the digests sent."""
        for run in durable:
            assert 0 not in self.sender.sent.get_run(run)[0], "durable before anybody said what was sent"
        self.source_journal += range_records(self.sender.sent, durable)

    def on_the_wire(self) -> bool:
        return any(self.wires.values())

    @precondition(lambda self: self.on_the_wire())
    @rule(pick=st.integers(0, 100), duplicate=st.booleans(), damage=st.booleans())
    def deliver(self, pick: int, duplicate: bool, damage: bool) -> None:
        wires = [wire for wire in self.wires.values() if wire]
        wire = wires[pick % len(wires)]
        message = wire.pop(pick % len(wire))
        if damage and len(message) > HEADER_BYTES and self.rng.random() < 0.3:
            broken = bytearray(message)
            frame = decode(message)
            broken[HEADER_BYTES + self.rng.randrange(len(message) - HEADER_BYTES)] ^= 0x40
            # a bit of a zstd frame may mean nothing: then the cell is right, and may be taken
            self.take(bytes(broken), expect_refusal=len(frame.payload) == blocks_bytes(frame.bitmap, frame.length))
            return
        self.take(message)
        if duplicate:
            self.take(message)

    @precondition(lambda self: self.on_the_wire())
    @rule(pick=st.integers(0, 100), byte=st.integers(0, HEADER_BYTES - 1), bit=st.integers(0, 7))
    def damage_a_header(self, pick: int, byte: int, bit: int) -> None:
        """Nothing of it is believed, not even which cell it was: the lane is over."""
        lanes = [lane for lane, wire in self.wires.items() if wire]
        lane = lanes[pick % len(lanes)]
        broken = bytearray(self.wires[lane][0])
        broken[byte] ^= 1 << bit
        with pytest.raises(Corrupt):
            decode(bytes(broken))
        if self.rng.random() < 0.3:
            self.lose(lane)

    def take(self, message: bytes, *, expect_refusal: bool = False) -> None:
        before = bytes(self.volume.now)
        frame = decode(message)
        try:
            accepted = self.receiver.accept(frame)
        except Corrupt:
            assert bytes(self.volume.now) == before
            self.acks.append(encode(self.receiver.rejected(frame.cell, frame.count)))
            return
        assert not expect_refusal
        for operation in accepted.operations:
            self.volume.apply(operation)
        self.touched += range(frame.cell, frame.cell + frame.count)
        self.acks.append(encode(self.receiver.written(frame)))

    @precondition(lambda self: self.old_wire)
    @rule(pick=st.integers(0, 100))
    def deliver_from_a_replaced_attempt(self, pick: int) -> None:
        before = bytes(self.volume.now)
        with pytest.raises(StaleGeneration):
            self.receiver.accept(decode(self.old_wire[pick % len(self.old_wire)]))
        assert bytes(self.volume.now) == before

    @precondition(lambda self: self.acks)
    @rule()
    def acknowledge(self) -> None:
        for ack in decode_acks(self.acks.pop(0)):
            try:
                self.record(self.sender.on_ack(ack))
            except Corrupt:
                self.attempt()  # damaged too often: the attempt fails, the next one begins
                return
        assert self.sender.covered_bytes() >= self.shown
        self.shown = self.sender.covered_bytes()

    @precondition(lambda self: self.acks)
    @rule()
    def lose_the_stream_of_acks(self) -> None:
        """A new one begins with all that is known."""
        if self.rng.random() < 0.3:
            self.acks = [*self.receiver.known_acks(), *self.receiver.durable_acks(self.receiver.table.known_runs())]

    @rule(crash_before_journal=st.booleans())
    def flush(self, crash_before_journal: bool) -> None:
        batch = self.receiver.start_flush()
        self.volume.flush()
        self.touched.clear()
        if crash_before_journal and self.rng.random() < 0.2:
            self.power_cut()
            return
        runs = self.receiver.make_durable(batch)
        self.sink_journal += range_records(self.receiver.table, runs)
        self.acks += self.receiver.durable_acks(runs)

    @rule(picks=st.sets(st.integers(0, LANES - 1), min_size=1))
    def lose_lanes(self, picks: set[int]) -> None:
        """One or all at once; what they had sent may still arrive, and their reports may come later."""
        if self.rng.random() < 0.2:
            for lane in [sorted(self.given)[pick] for pick in picks]:
                self.lose(lane)

    def lose(self, lane: int) -> None:
        on_its_way = self.sender.lane_cost(lane)
        before = self.sender.in_flight_bytes
        self.sender.lane_lost(lane)
        assert self.sender.lane_cost(lane) == 0
        assert self.sender.in_flight_bytes == before - on_its_way
        del self.given[lane]
        late = self.wires.pop(lane)
        self.open_lane()
        # the sink may still have some of it in its buffers
        for message in late[: self.rng.randrange(len(late) + 1)]:
            self.take(message)

    @rule()
    def crash_sink(self) -> None:
        if self.rng.random() < 0.3:
            self.power_cut()

    def power_cut(self) -> None:
        self.volume.power_cut(self.rng, self.touched)
        self.touched.clear()
        old = [message for wire in self.wires.values() for message in wire]
        self.attempt()
        self.old_wire = old

    @rule(cut=st.integers(1, 40))
    def tear_the_journals_tail(self, cut: int) -> None:
        """A torn tail may cost the last records, never more, and never invents any."""
        if self.rng.random() < 0.1 and len(self.sink_journal) > cut:
            whole = replay(self.sink_journal)
            torn = replay(self.sink_journal[:-cut])
            assert torn.valid_bytes <= whole.valid_bytes
            assert torn.generation <= whole.generation

    def teardown(self) -> None:
        if not hasattr(self, "sender"):
            return
        self.finish()
        assert bytes(self.volume.safe) == bytes(self.source)
        data, zero, digest = self.sender.seal_counts()
        self.receiver.check_seal(data, zero, digest)
        with pytest.raises(Corrupt):
            self.receiver.check_seal(data, zero, bytes(32))

    def finish(self) -> None:
        """With a healthy wire, everything ends."""
        for _ in range(10 * CELLS):
            for pick, lane in enumerate(sorted(self.given)):
                self.assign(pick, CELL_BYTES)
                while self.given[lane]:
                    self.send(pick, True)
                while self.wires[lane]:
                    self.take(self.wires[lane].pop(0))
            while self.unreported:
                self.hear(self.unreported.pop())
            while self.acks:
                self.acknowledge()
            batch = self.receiver.start_flush()
            self.volume.flush()
            self.acks += self.receiver.durable_acks(self.receiver.make_durable(batch))
            while self.acks:
                self.acknowledge()
            if self.sender.durable:
                return
        raise AssertionError("the pass does not end")


def _cells(runs: list[Run]) -> list[int]:
    return [cell for run in runs for cell in range(run.first, run.end)]


TestPass = PassMachine.TestCase
TestPass.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_the_bounds_are_those_promised() -> None:
    assert WINDOW_BYTES == 48 << 20, (
        "what the loss of every lane costs, and less than the 64 MiB that may be sent again"
    )
    assert FLUSH_BYTES == 256 << 20
    assert MAX_UNDURABLE_BYTES == 2 * FLUSH_BYTES, "sending goes on while the sink flushes"
    assert MAX_REJECTS_PER_CELL == 5
