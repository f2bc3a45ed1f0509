"""A whole pass between sender and receiver, over lanes that lose, damage, duplicate and reorder; the sink may crash.

The model of the volume knows what was flushed; a crash drops the rest. At the end the volume must equal the source.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from coriolis.errors import Corrupt, StaleGeneration
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, cell_length, complement
from coriolis.transfer.codec import Frame, FrameKind, decode, decode_acks, encode
from coriolis.transfer.journal import Opening, opening_record, range_records, replay
from coriolis.transfer.receiver import Receiver, Write
from coriolis.transfer.sender import MAX_REJECTS_PER_CELL, MAX_UNDURABLE_BYTES, Plan, ReadCell, Sender

CELLS = 6
WINDOW = 3 * CELL_BYTES
UNDURABLE = 4 * CELL_BYTES


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
        self.wire: list[bytes] = []
        self.old_wire: list[bytes] = []
        self.acks: list[bytes] = []
        self.shown = 0

    @rule()
    def send(self) -> None:
        work = self.sender.next_work()
        if work is None:
            return
        if isinstance(work, ReadCell):
            start = work.cell * CELL_BYTES
            data = bytes(self.source[start : start + cell_length(work.cell, self.size)])
            frame = self.sender.read_done(work.cell, data, lane=0)
        else:
            frame = self.sender.zero_frame(work.run, lane=0)
        self.wire.append(encode(frame))
        assert self.sender.in_flight_bytes <= WINDOW
        assert self.sender.undurable_sent_bytes <= UNDURABLE

    @precondition(lambda self: self.wire)
    @rule(pick=st.integers(0, 100), duplicate=st.booleans(), damage=st.booleans())
    def deliver(self, pick: int, duplicate: bool, damage: bool) -> None:
        message = self.wire.pop(pick % len(self.wire))
        if damage and len(message) > 52 and self.rng.random() < 0.3:
            broken = bytearray(message)
            broken[52 + self.rng.randrange(len(message) - 52)] ^= 0x40
            self.take(bytes(broken), expect_refusal=True)
            return
        self.take(message)
        if duplicate:
            self.take(message)

    def take(self, message: bytes, *, expect_refusal: bool = False) -> None:
        before = bytes(self.volume.now)
        frame = decode(message)
        try:
            accepted = self.receiver.accept(frame)
        except Corrupt:
            assert bytes(self.volume.now) == before
            self.acks.append(encode(self.receiver.rejection(frame)))
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
                self.sender.on_ack(ack)
            except Corrupt:
                self.attempt()  # damaged too often: the attempt fails, the next one begins
                return
            if ack.kind is FrameKind.DURABLE:
                self.source_journal += range_records(self.sender.sent, self._sent(ack))
        assert self.sender.covered_bytes() >= self.shown
        self.shown = self.sender.covered_bytes()

    def _sent(self, ack: Frame) -> list[Run]:
        run = Run(ack.cell, ack.count)
        return [run] if 0 not in self.sender.sent.get_run(run)[0] else []

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

    @rule()
    def lose_the_lane(self) -> None:
        if self.rng.random() < 0.2:
            self.old_wire = []
            self.wire.clear()
            self.acks = [ack for ack in self.acks if decode_acks(ack)[0].kind is not FrameKind.RECEIVED]
            self.sender.lane_lost(0)

    @rule()
    def crash_sink(self) -> None:
        if self.rng.random() < 0.3:
            self.power_cut()

    def power_cut(self) -> None:
        self.volume.power_cut(self.rng, self.touched)
        self.touched.clear()
        old = self.wire
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
            self.send()
            while self.wire:
                self.take(self.wire.pop(0))
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
TestPass.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_the_bounds_are_those_promised() -> None:
    assert MAX_UNDURABLE_BYTES == 64 << 20
    assert MAX_REJECTS_PER_CELL == 5
