"""A wire or a memory that damages, a sink that answers anything: nothing wrong is written or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.agent import push_disk
from coriolis.agent.choose_route import Transport
from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.lanes import grpc_sink, sink_host
from coriolis.agent.sink_disk import AckQueue, SinkDisk
from coriolis.errors import CoriolisError, Corrupt
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.codec import Frame, FrameKind, encode
from coriolis.transfer.run_map import pack_runs
from coriolis.transfer.sender import MAX_REJECTS_PER_CELL, Sender
from tests.unit.agent.open_sink import DISK, MIB
from tests.unit.agent.pair import Lab, MemorySnapshot, MemoryVolume, cells_plan, content, full_plan, sent
from tests.unit.agent.spied_sink import SpiedSink

MakeLab = Callable[[int], Lab]
TRANSPORTS: tuple[Transport, ...] = ("grpc", "direct")


# -- D1: bits flipped above TLS -----------------------------------------------------------------------------------


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
