"""A source that sends anything, a sink that answers anything: nothing crashes, nothing wrong is written or sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.agent import source_disk
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.sink_disk import SinkDisk
from coriolis.errors import CoriolisError, Corrupt, InvalidInput, StaleGeneration
from coriolis.model.resource import Volume
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.codec import Frame, FrameKind, data_frame, decode, decode_acks, encode
from coriolis.transfer.sender import MAX_REJECTS_PER_CELL
from tests.unit.agent.pair import Lab, MemorySnapshot, MemoryVolume, cells_plan, content, full_plan, sent

MIB = 1 << 20
MakeLab = Callable[[int], Lab]
GENERATION = 3
TAIL = 300
SIZE = 2 * CELL_BYTES + TAIL
FRAMES_CASES = 10_000
MASKED_HEADER = range(8, 36)
"""Generation, cell, count and length: checked by bounds and by the seal, not by the cell's digest."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Finish a coroutine that never really waits, without the cost of a loop."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def opened_sink(journal: DiskJournal, volume: MemoryVolume, manifest: Any = None) -> SinkDisk:
    sink = SinkDisk("t", "d", GENERATION, 1, Volume("v", "v", volume.size, False), volume, journal, manifest)
    sink.open(
        pb.OpenDiskRequest(
            transfer_id="t",
            disk_id="d",
            generation=GENERATION,
            pass_number=1,
            size_bytes=volume.size,
            snapshot_identity="s",
            cell_bytes=CELL_BYTES,
        )
    )
    return sink


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[SinkDisk, MemoryVolume]:
    volume = MemoryVolume(SIZE)
    return opened_sink(DiskJournal(tmp_path_factory.mktemp("victim") / "j"), volume), volume


GOOD = encode(data_frame(GENERATION, 2, random.Random(1).randbytes(TAIL)))
ZERO = encode(Frame(FrameKind.ZERO, GENERATION, 2))

positions = st.integers(0, len(GOOD) - 1)
flips = st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=4)
garbage = st.binary(max_size=120)
headers = st.builds(
    lambda kind, generation, cell, count, length, bitmap, body: encode(
        Frame(kind, generation, cell, count, length, bitmap, bytes(16), body)
    ),
    st.sampled_from(list(FrameKind)),
    st.sampled_from([0, GENERATION - 1, GENERATION, GENERATION, GENERATION + 1, 2**64 - 1]),
    st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1])),
    st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1])),
    st.one_of(st.integers(0, 1000), st.sampled_from([CELL_BYTES, CELL_BYTES + 1, 2**32 - 1])),
    st.integers(0, 2**16 - 1),
    st.binary(max_size=400),
)


@settings(max_examples=FRAMES_CASES, deadline=None)
@given(st.one_of(flips, garbage, headers))
def test_malformed_frames_are_refused_and_never_written(
    victim: tuple[SinkDisk, MemoryVolume], case: list[tuple[int, int]] | bytes
) -> None:
    sink, volume = victim
    zeroes_before, written_before = bytes(volume.now), volume.written_bytes
    message = case
    if isinstance(case, list):
        damaged = bytearray(GOOD)
        for position, mask in case:
            damaged[position] ^= mask
        message = bytes(damaged)
    assert isinstance(message, bytes)
    try:
        [answer] = decode_acks(run(sink.take(message)))
    except (Corrupt, StaleGeneration):
        answer = None
    if answer is None or answer.kind is FrameKind.REJECTED:
        assert bytes(volume.now) == zeroes_before
        assert volume.written_bytes == written_before
        return
    frame = decode(message)
    assert answer.kind is FrameKind.RECEIVED
    assert frame.generation == GENERATION
    assert frame.cell + frame.count <= 3
    if frame.kind is FrameKind.DATA and isinstance(case, list):
        # what was accepted is the cell that was sent: only bits without a meaning had been flipped
        # (flips of one byte may cancel each other out, so the bytes are compared, not the flips)
        changed = {position for position, byte in enumerate(message) if byte != GOOD[position]}
        assert changed <= {*MASKED_HEADER, 6, 7}


def test_good_frames_of_the_same_shape_are_written(victim: tuple[SinkDisk, MemoryVolume]) -> None:
    sink, volume = victim
    [answer] = decode_acks(run(sink.take(GOOD)))
    assert answer.kind is FrameKind.RECEIVED
    assert volume.now[2 * CELL_BYTES :] == random.Random(1).randbytes(TAIL)
    [answer] = decode_acks(run(sink.take(ZERO)))
    assert answer.kind is FrameKind.RECEIVED
    assert not any(volume.now[2 * CELL_BYTES :])


class DamagingSink(SinkDisk):
    """Flips a bit above TLS, before the digest is checked, in the first frames that carry data."""

    damages = MAX_REJECTS_PER_CELL - 1

    async def take(self, message: bytes) -> bytes:
        if self.damages and len(message) > 100:
            self.damages -= 1
            damaged = bytearray(message)
            damaged[-1] ^= 0x10
            message = bytes(damaged)
        return await super().take(message)


class ExactVolume(MemoryVolume):
    """Accepts only what the source holds."""

    truth = b""

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        assert bytes(data) == self.truth[offset : offset + len(data)], "damaged data was written"
        await super().write_at(offset, data)


async def test_a_damaged_chunk_is_refused_sent_again_and_never_written(lab: MakeLab) -> None:
    disk = content(6 * MIB, [(0, 6 * MIB)])
    here = lab(len(disk))
    here.volume = volume = ExactVolume(len(disk))
    volume.truth = disk
    here.sink_class = DamagingSink
    source = await here.send(disk, full_plan(disk))
    assert volume.safe == disk
    assert source.sender is not None
    assert source.sender.stats.resent_bytes == DamagingSink.damages * MIB


async def test_a_wire_that_always_damages_ends_the_pass(lab: MakeLab) -> None:
    disk = content(2 * MIB, [(0, 2 * MIB)])
    here = lab(len(disk))
    here.sink_class = type("Always", (DamagingSink,), {"damages": 10_000})
    with pytest.raises(Corrupt, match="damaged"):
        await here.send(disk, full_plan(disk))
    assert here.volume.written_bytes == 0


async def test_data_damaged_after_the_check_is_found_by_comparison(lab: MakeLab) -> None:
    """D1: what a disk or controller breaks behind the sink's back shows when the volume is compared."""
    disk = content(4 * MIB, [(0, 4 * MIB)])
    here = lab(len(disk))
    await here.send(disk, full_plan(disk))
    here.volume.now[3 * MIB + 17] ^= 1
    plan = full_plan(disk, compare=True)
    source = await here.send(disk, plan, generation=2, pass_number=2, snapshot="s2")
    assert here.volume.safe == disk
    assert source.sender is not None
    assert source.sender.stats.sent_bytes == MIB


# -- D12: a sink that lies --------------------------------------------------------------------------------------


class LyingSink(SinkDisk):
    """Answers with whatever the test says, and notes every cell that it is sent."""

    opened: pb.OpenDiskResponse | None = None
    acks: tuple[Frame, ...] = ()
    differing: tuple[int, ...] = ()
    ends_lanes = False
    got: set[int]
    asked: set[int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.got, self.asked = set(), set()

    def open(self, request: pb.OpenDiskRequest) -> pb.OpenDiskResponse:
        honest = super().open(request)
        return self.opened or honest

    async def compare(self, request: pb.CompareCellsRequest) -> pb.CompareCellsResponse:
        self.asked |= {wanted.cell for wanted in request.cells}
        await super().compare(request)
        return pb.CompareCellsResponse(differing=self.differing)

    async def take(self, message: bytes) -> bytes:
        frame = decode(message)
        self.got |= set(range(frame.cell, frame.cell + frame.count))
        answer = await super().take(message)
        return b"".join([answer, *(encode(ack) for ack in self.acks)])


HUGE = 2**64 - 1
PLANNED = {1, 3}
DISK = content(8 * MIB, [(0, 8 * MIB)])
numbers = st.one_of(st.integers(0, 12), st.sampled_from([2**32, 2**63, HUGE]))


@settings(max_examples=60, deadline=None)
@given(
    durable=st.lists(st.tuples(numbers, numbers), max_size=5),
    acks=st.lists(
        st.tuples(st.sampled_from([FrameKind.RECEIVED, FrameKind.DURABLE, FrameKind.REJECTED]), numbers, numbers),
        max_size=3,
    ),
    differing=st.lists(numbers, max_size=5),
    window=st.sampled_from([0, 1, CELL_BYTES, 32 * MIB, HUGE]),
    compare=st.booleans(),
)
def test_a_hostile_sink_gets_no_cell_beyond_the_sources_plan(
    tmp_path_factory: pytest.TempPathFactory,
    tls: Any,
    durable: list[tuple[int, int]],
    acks: list[tuple[FrameKind, int, int]],
    differing: list[int],
    window: int,
    compare: bool,
) -> None:
    opened = pb.OpenDiskResponse(
        durable=[pb.CellRange(first=first, count=count) for first, count in durable],
        window_bytes=window,
        compare_first=compare,
    )
    frames = tuple(Frame(kind, 1, cell, count) for kind, cell, count in acks)
    lying = type("L", (LyingSink,), {"opened": opened, "acks": frames, "differing": tuple(differing)})
    here = Lab(tmp_path_factory.mktemp("liar"), tls, MemoryVolume(len(DISK)), sink_class=lying)
    snapshot = MemorySnapshot(DISK)

    async def attempt() -> None:
        async with here.sink() as (_, port), here.source(port, snapshot) as source:
            try:
                await sent(source, cells_plan(*PLANNED))
            except CoriolisError:
                pass  # it may fail; what counts is what was given away

    asyncio.run(attempt())
    [sink] = here.sinks
    assert isinstance(sink, LyingSink)
    assert sink.got <= PLANNED
    assert sink.asked <= PLANNED
    DiskJournal(here.source_journal).close()  # what the liar said did not break it


async def test_a_window_that_fits_no_cell_is_refused_at_once(lab: MakeLab) -> None:
    here = lab(len(DISK))
    here.sink_class = type("L", (LyingSink,), {"opened": pb.OpenDiskResponse(window_bytes=1)})
    with pytest.raises(Corrupt, match="window"):
        await here.send(DISK, full_plan(DISK))


async def test_an_ack_beyond_the_disk_is_refused_and_not_journalled(lab: MakeLab) -> None:
    here = lab(len(DISK))
    here.sink_class = type("L", (LyingSink,), {"acks": (Frame(FrameKind.DURABLE, 1, 0, 2**62),)})
    with pytest.raises(Corrupt, match="the disk has 8"):
        await here.send(DISK, full_plan(DISK))


class MuteFlushSink(SinkDisk):
    """Says RECEIVED and never DURABLE."""

    async def flush(self) -> None:
        return


async def test_a_sink_that_never_makes_anything_durable_is_noticed(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_disk, "STALL_S", 1.5)
    size = 70 * MIB
    disk = MemorySnapshot(content(size, [(0, size)]))
    here = lab(size)
    here.sink_class = MuteFlushSink
    with pytest.raises(CoriolisError, match="no acknowledgement"):
        await here.send(disk, full_plan(disk.content))


# -- I8: flush, journal, acknowledge, in this order ---------------------------------------------------------------


class Killed(BaseException):
    """kill -9 between two steps."""


def told_durable(lane: asyncio.Queue[bytes | None]) -> set[int]:
    cells: set[int] = set()
    while not lane.empty():
        message = lane.get_nowait()
        assert message is not None
        for ack in decode_acks(message):
            if ack.kind is FrameKind.DURABLE:
                cells |= set(range(ack.cell, ack.cell + ack.count))
    return cells


@pytest.mark.parametrize("die_at", ["before flush", "in flush", "before journal", "after journal", "never"])
async def test_nothing_acknowledged_as_durable_is_lost_by_a_kill(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch, die_at: str
) -> None:
    here = lab(len(DISK))
    volume = here.volume
    journal = DiskJournal(here.sink_journal)
    sink = opened_sink(journal, volume, here.manifest)
    lane = sink.add_lane()
    real = DiskJournal.append_ranges

    def append(self: DiskJournal, table: Any, runs: list[Run]) -> None:
        assert volume.safe == bytes(volume.now), "journalled before it was flushed"
        if die_at == "before journal" and volume.flushes > 1:
            raise Killed
        real(self, table, runs)
        if die_at == "after journal" and volume.flushes > 1:
            raise Killed

    def flush() -> None:
        if die_at == "in flush" and volume.flushes == 1:
            raise Killed

    monkeypatch.setattr(DiskJournal, "append_ranges", append)
    volume.before_flush = flush
    for cell in range(4):
        await sink.take(encode(data_frame(GENERATION, cell, DISK[cell * MIB : (cell + 1) * MIB])))
    assert told_durable(lane) == set(), "received is not durable"
    await sink.flush()
    for cell in range(4, 8):
        await sink.take(encode(data_frame(GENERATION, cell, DISK[cell * MIB : (cell + 1) * MIB])))
    try:
        if die_at != "before flush":
            await sink.flush()
    except Killed:
        pass
    promised = told_durable(lane)
    later = sink.add_lane()  # a lane that reconnects just then is promised no more
    assert told_durable(later) == promised
    assert promised == (set(range(8)) if die_at == "never" else set(range(4)))
    volume.power_cut()
    journal.close()
    for cell in promised:
        assert volume.now[cell * MIB : (cell + 1) * MIB] == DISK[cell * MIB : (cell + 1) * MIB]
    with DiskJournal(here.sink_journal) as again:
        table = again.state.table
        assert table is not None
        known = {cell for run_ in table.known_runs() for cell in range(run_.first, run_.end)}
        assert promised <= known
        for cell in known:  # and what the journal knows is there, acknowledged or not
            assert volume.now[cell * MIB : (cell + 1) * MIB] == DISK[cell * MIB : (cell + 1) * MIB]


async def test_a_failed_flush_is_tried_again_with_all_it_had(lab: MakeLab) -> None:
    here = lab(len(DISK))
    with DiskJournal(here.sink_journal) as journal:
        sink = opened_sink(journal, here.volume, here.manifest)
        lane = sink.add_lane()
        await sink.take(encode(data_frame(GENERATION, 0, DISK[:MIB])))
        failures = iter([InvalidInput("not now")])

        def fail() -> None:
            for failure in failures:
                raise failure

        here.volume.before_flush = fail
        with pytest.raises(InvalidInput):
            await sink.flush()
        assert told_durable(lane) == set()
        await sink.flush()
        assert told_durable(lane) == {0}
