"""A source that sends anything, a sink that answers anything: nothing crashes, nothing wrong is written or sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.agent import push_disk
from coriolis.agent.choose_route import Transport
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes import grpc_sink, sink_host
from coriolis.agent.lanes.grpc_sink import decode_or_end
from coriolis.agent.lanes.messages import DiskFailed, FromHost, Refused, WroteFrame
from coriolis.agent.lanes.sink_host import ServedDisk, frames_of, receive_frames
from coriolis.agent.sink_disk import AckQueue, OpenedDisk, SinkDisk
from coriolis.errors import CoriolisError, Corrupt, InvalidInput, StaleGeneration, Unavailable
from coriolis.model.resource import Volume
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.codec import Encoding, Frame, FrameKind, data_frame, decode, decode_acks, encode
from coriolis.transfer.receiver import Accepted, Intake
from coriolis.transfer.run_map import pack_runs
from coriolis.transfer.sender import MAX_REJECTS_PER_CELL, Sender
from tests.unit.agent.pair import Lab, MemorySnapshot, MemoryVolume, cells_plan, content, full_plan, sent

MIB = 1 << 20
MakeLab = Callable[[int], Lab]
GENERATION = 3
TAIL = 300
SIZE = 2 * CELL_BYTES + TAIL
FRAMES_CASES = 10_000
TRANSPORTS: tuple[Transport, ...] = ("grpc", "direct")


# -- D2: frames of any kind, as either transport receives them ----------------------------------------------------


class MemoryCells:
    """Meets CellWriter; refuses to be written outside of the volume."""

    def __init__(self, size: int) -> None:
        self.now = bytearray(size)
        self.writes = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert 0 <= offset <= offset + len(data) <= len(self.now)
        self.now[offset : offset + len(data)] = data
        self.writes += 1

    def write_zeroes(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))


class MemoryStream:
    """A lane's received bytes. Meets what ``receive_frames`` needs of TlsReceiver."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_into(self, view: memoryview) -> bool:
        if not self._data:
            return False
        if len(self._data) < len(view):
            raise Unavailable("a lane's connection was cut")
        view[:] = self._data[: len(view)]
        self._data = self._data[len(view) :]
        return True


class Heard:
    """What lanes tell. Meets what ``receive_frames`` needs of Teller."""

    def __init__(self) -> None:
        self.words: list[Any] = []

    def add(self, disk_id: str, said: WroteFrame | Refused, more_comes: bool | None = None) -> None:
        self.words.append(said)

    def flush(self, disk_id: str) -> None: ...

    def say(self, message: FromHost) -> None:
        self.words.append(message)


def by_grpc(disk: ServedDisk, message: bytes) -> list[Any]:
    heard: Any = Heard()
    receive_frames((decode_or_end(each) for each in [message]), disk, heard, lambda: None)
    words: list[Any] = heard.words
    return words


def by_direct(disk: ServedDisk, message: bytes) -> list[Any]:
    heard: Any = Heard()
    stream: Any = MemoryStream(message)
    receive_frames(frames_of(stream), disk, heard, lambda: False)
    words: list[Any] = heard.words
    return words


def new_victim(size: int = SIZE) -> tuple[ServedDisk, MemoryCells]:
    cells = MemoryCells(size)
    intake = Intake(size, GENERATION, np.ones(-(-size // CELL_BYTES), dtype=np.uint8))
    return ServedDisk("d", intake, cells, ""), cells


@pytest.fixture(scope="module")
def victim() -> tuple[ServedDisk, MemoryCells]:
    return new_victim()


GOOD = encode(data_frame(GENERATION, 2, random.Random(1).randbytes(TAIL)))
ZERO = encode(Frame(FrameKind.ZERO, GENERATION, 2))

positions = st.integers(0, len(GOOD) - 1)
flips = st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=4)
garbage = st.binary(max_size=120)
headers = st.builds(
    lambda kind, generation, cell, count, length, bitmap, body, encoding: encode(
        Frame(kind, generation, cell, count, length, bitmap, bytes(16), body, encoding)
    ),
    st.sampled_from(list(FrameKind)),
    st.sampled_from([0, GENERATION - 1, GENERATION, GENERATION, GENERATION + 1, 2**64 - 1]),
    st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1])),
    st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1])),
    st.one_of(st.integers(0, 1000), st.sampled_from([CELL_BYTES, CELL_BYTES + 1, 2**32 - 1])),
    st.integers(0, 2**16 - 1),
    st.binary(max_size=400),
    st.sampled_from(list(Encoding)),
)


@settings(max_examples=FRAMES_CASES, deadline=None)
@given(st.one_of(flips, garbage, headers), st.sampled_from([by_grpc, by_direct]))
def test_malformed_frames_are_refused_and_never_written(
    victim: tuple[ServedDisk, MemoryCells],
    case: list[tuple[int, int]] | bytes,
    arrive: Callable[[ServedDisk, bytes], list[Any]],
) -> None:
    disk, cells = victim
    before, written_before = bytes(cells.now), cells.writes
    message = case
    if isinstance(case, list):
        damaged = bytearray(GOOD)
        for position, mask in case:
            damaged[position] ^= mask
        message = bytes(damaged)
    assert isinstance(message, bytes)
    try:
        said = arrive(disk, message)
    except (Corrupt, StaleGeneration, Unavailable):
        said = []
    accepted = [each for each in said if isinstance(each, WroteFrame)]
    assert all(isinstance(each, WroteFrame | Refused) for each in said)
    if not accepted:
        assert bytes(cells.now) == before
        assert cells.writes == written_before
        return
    frame = decode(message)
    assert frame.generation == GENERATION
    assert frame.cell + frame.count <= 3
    if isinstance(case, list):
        # flips of one byte may cancel each other out; nothing else passes
        assert message == GOOD


@pytest.mark.parametrize("arrive", [by_grpc, by_direct])
def test_good_frames_of_the_same_shape_are_written(arrive: Callable[[ServedDisk, bytes], list[Any]]) -> None:
    disk, cells = new_victim()
    assert [type(each) for each in arrive(disk, GOOD)] == [WroteFrame]
    assert cells.now[2 * CELL_BYTES :] == random.Random(1).randbytes(TAIL)
    assert [type(each) for each in arrive(disk, ZERO)] == [WroteFrame]
    assert not any(cells.now[2 * CELL_BYTES :])


@pytest.mark.parametrize("error", [Unavailable("the disk is gone"), Corrupt("the file was cut")])
def test_a_volume_that_fails_is_told_whatever_it_fails_with(error: CoriolisError) -> None:
    """Else it would be taken for the lane's fault, and tried again without anybody knowing why."""
    disk, cells = new_victim()

    def fail(offset: int, data: object) -> None:
        raise error

    cells.write = fail  # type: ignore[method-assign]
    [failed] = by_direct(disk, GOOD)
    assert failed == DiskFailed("d", error.code, error.message)


# -- D1: bits flipped above TLS -----------------------------------------------------------------------------------


class SpyIntake(Intake):
    """Shows every frame to its sink before it is judged."""

    sink: SpiedSink

    def accept(self, frame: Frame) -> Accepted:
        return super().accept(self.sink.seen(frame))


class SpiedSink(SinkDisk):
    """Sees, and may change, every frame of either transport after TLS and before the digest is checked."""

    def open(self, request: pb.OpenDiskRequest) -> pb.OpenDiskResponse:
        answer = super().open(request)
        assert self.opened is not None
        plain = self.opened.served.intake
        spy = SpyIntake(plain.size_bytes, plain.generation, plain.touched)
        spy.sink = self
        self.opened = OpenedDisk(
            msgspec.structs.replace(self.opened.served, intake=spy), self.opened.touched_descriptor
        )
        return answer

    def seen(self, frame: Frame) -> Frame:
        return frame


class DamagingSink(SpiedSink):
    """Flips a bit of the payload in the first frames that carry data."""

    damages = MAX_REJECTS_PER_CELL - 1

    def seen(self, frame: Frame) -> Frame:
        if not self.damages or not len(frame.payload):
            return frame
        self.damages -= 1
        damaged = bytearray(frame.payload)
        damaged[-1] ^= 0x10
        return msgspec.structs.replace(frame, payload=bytes(damaged))


class ExactVolume(MemoryVolume):
    """Accepts only what the source holds."""

    truth = b""

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        assert bytes(data) == self.truth[offset : offset + len(data)], "damaged data was written"
        await super().write_at(offset, data)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_damaged_chunk_is_refused_sent_again_and_never_written(lab: MakeLab, transport: Transport) -> None:
    disk = content(6 * MIB, [(0, 6 * MIB)])
    here = lab(len(disk))
    here.transport = transport
    here.volume = volume = ExactVolume(len(disk))
    volume.truth = disk
    here.sink_class = DamagingSink
    source = await here.send(disk, full_plan(disk))
    assert volume.safe == disk
    assert source.sender is not None
    assert source.sender.stats.resent_bytes == DamagingSink.damages * MIB


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_wire_that_always_damages_ends_the_pass(lab: MakeLab, transport: Transport) -> None:
    disk = content(2 * MIB, [(0, 2 * MIB)])
    here = lab(len(disk))
    here.transport = transport
    here.sink_class = type("Always", (DamagingSink,), {"damages": 10_000})
    with pytest.raises(Corrupt, match="damaged"):
        await here.send(disk, full_plan(disk))
    assert here.volume.written_bytes == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_damaged_header_costs_its_lane_and_nothing_is_written_for_it(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    """Not even the cell's number can be believed, so nobody can be told to send it again: the lane ends."""
    disk = content(6 * MIB, [(0, 6 * MIB)])
    here = lab(len(disk))
    here.transport = transport
    here.volume = volume = ExactVolume(len(disk))
    volume.truth = disk
    hits = iter([11, 3, 20])
    module: Any = grpc_sink if transport == "grpc" else sink_host
    name = "decode" if transport == "grpc" else "decode_header"
    real = getattr(module, name)

    def damaged(message: bytes | memoryview) -> Any:
        byte = next(hits, None)
        changed = bytearray(message)
        if byte is not None:
            changed[byte] ^= 0x04
        return real(bytes(changed))

    monkeypatch.setattr(module, name, damaged)
    source = await here.send(disk, full_plan(disk))
    assert next(hits, None) is None, "all were damaged"
    assert source.sealed
    assert volume.safe == disk


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


class LyingSink(SpiedSink):
    """Answers with whatever the test says, and notes every cell that it is sent."""

    answer: pb.OpenDiskResponse | None = None
    lies: tuple[Frame, ...] = ()
    differing: tuple[int, ...] = ()
    got: set[int]
    asked: set[int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.got, self.asked = set(), set()

    def open(self, request: pb.OpenDiskRequest) -> pb.OpenDiskResponse:
        honest = super().open(request)
        return self.answer or honest

    async def compare(self, request: pb.CompareCellsRequest) -> pb.CompareCellsResponse:
        self.asked |= {wanted.cell for wanted in request.cells}
        await super().compare(request)
        return pb.CompareCellsResponse(differing=self.differing)

    def seen(self, frame: Frame) -> Frame:
        self.got |= set(range(frame.cell, frame.cell + frame.count))
        return frame

    def listen(self) -> AckQueue:
        queue = super().listen()
        for lie in self.lies:
            queue.put(encode(lie))
        return queue

    def _tell(self, messages: list[bytes]) -> None:
        super()._tell([*messages, *(encode(lie) for lie in self.lies)])


HUGE = 2**64 - 1
PLANNED = {1, 3}
DISK = content(8 * MIB, [(0, 8 * MIB)])
numbers = st.one_of(st.integers(0, 12), st.sampled_from([2**32, 2**63, HUGE]))


runs = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), max_size=5)
maps = st.one_of(
    st.builds(lambda found, cells: pack_runs([Run(*each) for each in found], cells), runs, st.sampled_from([8, 8, 16])),
    st.binary(max_size=40),
)


@settings(max_examples=60, deadline=None)
@given(
    durable=maps,
    written=maps,
    lies=st.lists(
        st.tuples(st.sampled_from([FrameKind.RECEIVED, FrameKind.DURABLE, FrameKind.REJECTED]), numbers, numbers),
        max_size=3,
    ),
    differing=st.lists(numbers, max_size=5),
    window=st.sampled_from([0, 1, CELL_BYTES, 32 * MIB, HUGE]),
    compare=st.booleans(),
    transport=st.sampled_from(TRANSPORTS),
)
def test_a_hostile_sink_gets_no_cell_beyond_the_sources_plan(
    tmp_path_factory: pytest.TempPathFactory,
    tls: Any,
    durable: bytes,
    written: bytes,
    lies: list[tuple[FrameKind, int, int]],
    differing: list[int],
    window: int,
    compare: bool,
    transport: Transport,
) -> None:
    answer = pb.OpenDiskResponse(durable_map=durable, written_map=written, window_bytes=window, compare_first=compare)
    frames = tuple(Frame(kind, 1, cell, count) for kind, cell, count in lies)
    lying = type("L", (LyingSink,), {"answer": answer, "lies": frames, "differing": tuple(differing)})
    here = Lab(tmp_path_factory.mktemp("liar"), tls, MemoryVolume(len(DISK)), sink_class=lying, transport=transport)
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
    here.sink_class = type("L", (LyingSink,), {"answer": pb.OpenDiskResponse(window_bytes=1)})
    with pytest.raises(Corrupt, match="window"):
        await here.send(DISK, full_plan(DISK))


async def test_an_ack_beyond_the_disk_is_refused_and_not_journalled(lab: MakeLab) -> None:
    here = lab(len(DISK))
    here.sink_class = type("L", (LyingSink,), {"lies": (Frame(FrameKind.DURABLE, 1, 0, 2**62),)})
    with pytest.raises(Corrupt, match="the disk has 8"):
        await here.send(DISK, full_plan(DISK))


class MuteFlushSink(SinkDisk):
    """Says RECEIVED and never DURABLE."""

    async def flush(self) -> None:
        return


async def test_a_sink_that_never_makes_anything_durable_is_noticed(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_disk, "STALL_S", 1.5)
    defaults: Any = Sender.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "undurable_bytes", 8 * MIB)
    size = 20 * MIB
    disk = MemorySnapshot(content(size, [(0, size)]))
    here = lab(size)
    here.sink_class = MuteFlushSink
    with pytest.raises(CoriolisError, match="no acknowledgement"):
        await here.send(disk, full_plan(disk.content))


# -- I8: flush, journal, acknowledge, in this order ---------------------------------------------------------------


class Killed(BaseException):
    """kill -9 between two steps."""


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


async def take(sink: SinkDisk, cell: int) -> None:
    """A cell of DISK, as a lane's thread gets it; written and noted at the return."""
    frame = data_frame(GENERATION, cell, DISK[cell * MIB : (cell + 1) * MIB])
    await asyncio.to_thread(sink.take_here, decode(encode(frame)))
    assert sink.receiver.has_unflushed


def told_durable(listener: AckQueue) -> set[int]:
    cells: set[int] = set()
    while not listener.empty():
        message = listener.get_nowait()
        assert isinstance(message, bytes)
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
    acks = sink.listen()
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
        await take(sink, cell)
    assert told_durable(acks) == set(), "received is not durable"
    await sink.flush()
    for cell in range(4, 8):
        await take(sink, cell)
    try:
        if die_at != "before flush":
            await sink.flush()
    except Killed:
        pass
    promised = told_durable(acks)
    later = sink.listen()  # a source that reconnects just then is promised no more
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
        acks = sink.listen()
        await take(sink, 0)
        failures = iter([InvalidInput("not now")])

        def fail() -> None:
            for failure in failures:
                raise failure

        here.volume.before_flush = fail
        with pytest.raises(InvalidInput):
            await sink.flush()
        assert told_durable(acks) == set()
        await sink.flush()
        assert told_durable(acks) == {0}
