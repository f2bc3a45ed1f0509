"""A disk from SourceDisk to SinkDisk over real gRPC: bytes, resume, refusals (D1, D2, D8, and D3's quota)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from coriolis.agent.choose_route import Transport
from coriolis.errors import Corrupt, Denied, QuotaExceeded, StaleGeneration, Unavailable
from coriolis.transfer.cells import CELL_BYTES, cell_count
from coriolis.transfer.codec import HEADER_BYTES
from coriolis.transfer.lane_count import MIN_LANES
from coriolis.transfer.manifest import decode_manifest
from coriolis.transfer.receiver import WINDOW_BYTES
from tests.lab.proxy import CuttingProxy
from tests.unit.agent.pair import Lab, MemorySnapshot, cells_plan, content, full_plan, sent

MIB = 1 << 20
MakeLab = Callable[[int], Lab]

SHAPES = {
    "empty": (0, []),
    "one-byte": (1, [(0, 1)]),
    "511": (511, [(0, 511)]),
    "one-mib-minus-one": (MIB - 1, [(0, MIB - 1)]),
    "one-mib": (MIB, [(0, MIB)]),
    "one-mib-plus-one": (MIB + 1, [(0, MIB + 1)]),
    "sparse": (20 * MIB + 7, [(3 * MIB - 5, 10), (9 * MIB, MIB), (20 * MIB, 7)]),
    "full": (12 * MIB, [(0, 12 * MIB)]),
    "all-zero": (30 * MIB, []),
}


@pytest.mark.parametrize("transport", ["grpc", "direct"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_disk_arrives_byte_for_byte(lab: MakeLab, shape: str, transport: Transport) -> None:
    size, data = SHAPES[shape]
    disk = content(size, data)
    here = lab(size)
    here.transport = transport
    source = await here.send(disk, full_plan(disk))
    assert here.volume.safe == disk, "sealed means durable"
    assert source.sealed
    head, table = decode_manifest(here.manifest.read_bytes())
    assert head.digest == source.manifest_digest.hex()
    assert table.size_bytes == size


async def test_a_volume_larger_than_the_disk_keeps_a_zero_tail(lab: MakeLab) -> None:
    disk = content(MIB + 5, [(0, MIB + 5)])
    here = lab(3 * MIB)
    await here.send(disk, full_plan(disk))
    assert here.volume.safe == disk + bytes(3 * MIB - len(disk))


async def test_old_data_on_a_reused_volume_does_not_survive_under_zeros(lab: MakeLab) -> None:
    disk = content(6 * MIB, [(MIB, 100)])
    here = lab(6 * MIB)
    here.fresh_is_zero = False
    here.volume.now[:] = b"\xff" * (6 * MIB)
    await here.send(disk, full_plan(disk))
    assert here.volume.safe == disk


# -- resume -----------------------------------------------------------------------------------------------------

DISK = content(16 * MIB, [(0, 5 * MIB), (8 * MIB, 4 * MIB)])


async def half_sent(here: Lab, disk: bytes = DISK) -> None:
    """Generation 1 of the first pass: some cells are durable on both sides, then both processes are gone."""
    async with here.sink() as (sink, port), here.source(port, disk) as source:
        here.volume.room = 6 * MIB
        with pytest.raises(QuotaExceeded):
            await sent(source, full_plan(disk))
        while sink.receiver.written_bytes < here.volume.written_bytes:  # noqa: ASYNC110 - what lanes wrote is told soon
            await asyncio.sleep(0.01)
        await sink.flush()
        # what the source had on the way when it failed may be forgotten there: here it had recorded it in time
        source._journal.append_ranges(sink.receiver.table, sink._journalled)
    here.volume.room = None
    here.volume.power_cut()


async def test_only_the_rest_is_sent_after_a_crash_of_both(lab: MakeLab) -> None:
    here = lab(len(DISK))
    await half_sent(here)
    written = here.volume.written_bytes
    source = await here.send(DISK, full_plan(DISK), generation=2)
    assert here.volume.safe == DISK
    assert source.sender is not None
    assert written > 0
    assert source.sender.stats.sent_bytes <= 9 * MIB - written
    assert source.sender.stats.read_bytes == source.sender.stats.sent_bytes, "what both journals know is not read"


@pytest.mark.parametrize("lost", ["sink", "source", "both", "sink-emptied", "sink-damaged", "sink-torn"])
async def test_a_lost_journal_costs_reading_not_sending_and_never_bytes(lab: MakeLab, lost: str) -> None:
    here = lab(len(DISK))
    await half_sent(here)
    written = here.volume.written_bytes
    # a hole in the volume that no journal knows of: trusting "fresh is zero" again would leave garbage in zero cells
    here.volume.now[6 * MIB : 6 * MIB + 3] = b"bad"
    match lost:
        case "sink":
            here.sink_journal.unlink()
        case "source":
            here.source_journal.unlink()
        case "both":
            here.sink_journal.unlink()
            here.source_journal.unlink()
        case "sink-emptied":
            here.sink_journal.write_bytes(b"")
        case "sink-damaged":
            damaged = bytearray(here.sink_journal.read_bytes())
            damaged[9] ^= 4
            here.sink_journal.write_bytes(damaged)
        case "sink-torn":
            here.sink_journal.write_bytes(here.sink_journal.read_bytes()[:-3])
    if lost in ("source", "sink-torn"):
        here.volume.now[6 * MIB : 6 * MIB + 3] = bytes(3)  # such a cell would be found by verification only
    source = await here.send(DISK, full_plan(DISK), generation=2)
    assert here.volume.safe == DISK
    assert source.sender is not None
    assert source.sender.stats.sent_bytes <= 9 * MIB - written


async def test_another_snapshot_of_the_same_pass_is_compared_and_only_differences_are_sent(lab: MakeLab) -> None:
    here = lab(len(DISK))
    await half_sent(here)
    newer = bytearray(DISK)
    newer[2 * MIB + 9] ^= 1
    newer[6 * MIB] = 7
    newer[9 * MIB : 10 * MIB] = bytes(MIB)
    source = await here.send(bytes(newer), full_plan(bytes(newer)), generation=2, snapshot="s2")
    assert here.volume.safe == bytes(newer)
    assert source.sender is not None
    assert source.sender.stats.sent_bytes < len(DISK)


async def test_a_second_pass_sends_only_changed_cells(lab: MakeLab) -> None:
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    newer = bytearray(DISK)
    newer[2 * MIB] ^= 1
    newer[8 * MIB : 9 * MIB] = bytes(MIB)
    newer[15 * MIB + 3] = 9
    source = await here.send(bytes(newer), cells_plan(2, 8, 15), generation=2, pass_number=2, snapshot="s2")
    assert here.volume.safe == bytes(newer)
    assert source.sender is not None
    assert source.sender.stats.read_bytes == 3 * MIB
    _, table = decode_manifest(here.manifest.read_bytes())
    assert len(table.known_runs()) == 1, "the manifest covers the whole disk"


@pytest.mark.parametrize("damage", ["absent", "damaged"])
async def test_a_second_pass_is_sealed_although_the_first_ones_manifest_is_lost(lab: MakeLab, damage: str) -> None:
    """Another agent took over, or the state directory was lost: nobody starts again for a list of digests."""
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    _, before = decode_manifest(here.manifest.read_bytes())
    here.sink_journal.unlink()
    if damage == "absent":
        here.manifest.unlink()
    else:
        here.manifest.write_bytes(here.manifest.read_bytes()[:-1])
    newer = bytearray(DISK)
    newer[2 * MIB] ^= 1
    await here.send(bytes(newer), cells_plan(2), generation=2, pass_number=2, snapshot="s2")
    assert here.volume.safe == bytes(newer)
    _, after = decode_manifest(here.manifest.read_bytes())
    for cell in range(cell_count(len(DISK))):
        assert (after.digest(cell) == before.digest(cell)) == (cell != 2)


async def test_a_lost_change_log_costs_a_comparison_and_sends_only_differences(lab: MakeLab) -> None:
    here = lab(len(DISK))
    await here.send(DISK, full_plan(DISK))
    newer = bytearray(DISK)
    newer[2 * MIB] ^= 1
    newer[7 * MIB] = 3
    plan = full_plan(bytes(newer), compare=True)
    source = await here.send(bytes(newer), plan, generation=2, pass_number=2, snapshot="s2")
    assert here.volume.safe == bytes(newer)
    assert source.sender is not None
    assert source.sender.stats.sent_bytes <= 2 * MIB


# -- faults on the way ------------------------------------------------------------------------------------------


async def test_cut_lanes_send_again_what_was_on_the_way_and_no_more(lab: MakeLab) -> None:
    disk = content(48 * MIB, [(0, 48 * MIB)])
    here = lab(len(disk))
    here.transport = "grpc"
    async with (
        here.sink() as (_, port),
        CuttingProxy("127.0.0.1", port) as proxy,
        here.source(proxy.port, disk) as source,
    ):
        cuts = asyncio.create_task(_cut_repeatedly(proxy, 4, 5 * MIB))
        await sent(source, full_plan(disk))
        await cuts
    assert here.volume.safe == disk
    assert source.sender is not None
    assert proxy.cuts == 4
    assert source.sender.stats.resent_bytes <= 4 * WINDOW_BYTES
    assert source.sender.stats.sent_bytes <= len(disk) + source.sender.stats.resent_bytes


async def _cut_repeatedly(proxy: CuttingProxy, times: int, spacing_bytes: int) -> None:
    for number in range(times):
        proxy.cut_after(spacing_bytes)
        while proxy.cuts <= number:  # noqa: ASYNC110 - polled: the proxy is shared with other tests
            await asyncio.sleep(0.01)


async def test_a_full_destination_is_told_to_the_source_with_sizes(lab: MakeLab) -> None:
    disk = content(8 * MIB, [(0, 8 * MIB)])
    here = lab(len(disk))
    here.volume.room = 2 * MIB + 100
    with pytest.raises(QuotaExceeded, match="100 bytes left"):
        await here.send(disk, full_plan(disk))
    assert not here.manifest.exists()


async def test_a_slow_writer_holds_no_more_than_the_window(lab: MakeLab) -> None:
    size = 3 * WINDOW_BYTES
    disk = MemorySnapshot(content(size, [(0, size)]))
    here = lab(size)
    here.volume.gate = asyncio.Event()
    async with here.sink() as (_, port), here.source(port, disk) as source:
        sending = asyncio.create_task(sent(source, full_plan(disk.content)))
        before = -1
        while before != disk.read_bytes or not before:
            before = disk.read_bytes
            await asyncio.sleep(0.3)
        # each lane may hold one frame that it has read and not written
        assert disk.read_bytes <= WINDOW_BYTES + MIN_LANES * CELL_BYTES
        here.volume.gate.set()
        await sending
    assert here.volume.safe == disk.content


# -- fences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 3])
async def test_another_generation_is_refused_at_open(lab: MakeLab, generation: int) -> None:
    here = lab(MIB)
    async with here.sink(2) as (_, port), here.source(port, bytes(MIB), generation=generation) as source:
        with pytest.raises(StaleGeneration):
            await sent(source, full_plan(bytes(MIB)))


async def test_another_generation_is_refused_at_push(lab: MakeLab) -> None:
    disk = content(2 * MIB, [(0, 2 * MIB)])
    here = lab(2 * MIB)
    async with here.sink(2) as (sink, port), here.source(port, disk, generation=2) as source:
        open_again = source._open

        async def open_and_be_replaced(stub: object) -> object:
            answer = await open_again(stub)  # type: ignore[arg-type]
            sink.generation = 3
            return answer

        source._open = open_and_be_replaced  # type: ignore[method-assign,assignment]
        with pytest.raises(StaleGeneration):
            await sent(source, full_plan(disk))
    assert here.volume.written_bytes == 0


async def test_a_sink_never_opens_a_generation_again(lab: MakeLab) -> None:
    here = lab(MIB)
    await here.send(bytes(MIB), full_plan(bytes(MIB)), generation=5)
    for old in (4, 5):
        here.source_journal.unlink(missing_ok=True)
        with pytest.raises(StaleGeneration):
            await here.send(bytes(MIB), full_plan(bytes(MIB)), generation=old)


async def test_a_source_that_was_not_assigned_is_denied(lab: MakeLab) -> None:
    here = lab(MIB)
    async with here.sink() as (_, port), here.source(port, bytes(MIB), who="stranger") as source:
        with pytest.raises(Denied):
            await sent(source, full_plan(bytes(MIB)))


async def test_a_sink_that_was_not_assigned_gets_nothing(lab: MakeLab) -> None:
    here = lab(MIB)
    disk = MemorySnapshot(content(MIB, [(0, MIB)]))
    async with here.sink() as (_, port), here.source(port, disk, expects="stranger") as source:
        with pytest.raises(Unavailable):
            await sent(source, full_plan(disk.content))
    assert disk.read_bytes == 0


async def test_a_disk_of_another_task_is_not_there(lab: MakeLab) -> None:
    here = lab(MIB)
    async with here.sink() as (sink, port), here.source(port, bytes(MIB)) as source:
        sink._transfer_id = "another"
        with pytest.raises(Exception, match="another transfer"):
            await sent(source, full_plan(bytes(MIB)))


def test_the_frame_header_is_small_beside_a_cell() -> None:
    assert HEADER_BYTES * 1000 < CELL_BYTES
    assert Corrupt.retryable is False
