"""What every origin keeps."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from coriolis.errors import ChangeLogLost, Conflict, InvalidInput, NotFound
from coriolis.model.disk import Extent, ExtentKind, Snapshot
from coriolis.providers.base import Connection, Page, SnapshotSource
from coriolis.providers.block.ranges import MAX_READ_BYTES
from tests.contract.case import BLOCK, Origin

FIRST, SECOND, THIRD = "coriolis-pass-1", "coriolis-pass-2", "coriolis-pass-3"


def source_of(connection: Connection) -> SnapshotSource:
    assert connection.snapshots is not None
    return connection.snapshots


async def clean_up(source: SnapshotSource, instance: str) -> None:
    for name in (FIRST, SECOND, THIRD):
        await source.delete_change_base(instance, name)


async def allocated(source: SnapshotSource, snapshot: Snapshot, disk: str, start: int = 0) -> list[Extent]:
    return [extent async for extent in source.allocated_extents(snapshot, disk, start)]


async def changed(source: SnapshotSource, base: str, snapshot: Snapshot, disk: str, start: int = 0) -> list[Extent]:
    return [extent async for extent in source.changed_extents(base, snapshot, disk, start)]


async def content(source: SnapshotSource, snapshot: Snapshot, disk: str) -> bytes:
    async with source.open_reader(snapshot, disk) as reader:
        pieces = [
            await reader.read_at(at, min(MAX_READ_BYTES, reader.size - at))
            for at in range(0, reader.size, MAX_READ_BYTES)
        ]
        return b"".join(pieces)


def is_zero(truth: bytearray, start: int, end: int) -> bool:
    """Compared, not counted: some disks have a GiB."""
    with memoryview(truth) as view:
        return all(view[at : min(at + BLOCK, end)] == bytes(min(BLOCK, end - at)) for at in range(start, end, BLOCK))


def check_gapless(extents: list[Extent], start: int, size: int) -> None:
    position = start
    for extent in extents:
        assert extent.offset == position
        assert extent.length > 0
        position = extent.end
    assert position == size


async def test_inventory(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        spec = await connection.inventory.get_instance(origin.instance)
        assert (await connection.inventory.get_instance(spec.id)).id == spec.id
        assert {disk.id: disk.size_bytes for disk in spec.devices.disks} == dict.fromkeys(origin.truth, origin.size)
        assert spec.num_cpu >= 1
        assert spec.memory_mb >= 1
        assert len(spec.devices.nics) == 1
        listed = [found.id for found in await connection.inventory.list_instances(Page())]
        assert spec.id in listed
        assert listed == sorted(listed)
        paged = await connection.inventory.list_instances(Page(limit=1))
        assert [found.id for found in paged] == listed[:1]
        assert [f.id for f in await connection.inventory.list_instances(Page(marker=listed[0]))] == listed[1:]
        for listing in (
            connection.inventory.list_networks,
            connection.inventory.list_storage,
            connection.inventory.list_flavors,
        ):
            assert all(item.id and item.name for item in await listing())


async def test_absent_instance(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        for call in (
            connection.inventory.get_instance("no-such"),
            source.create_snapshot("no-such", FIRST, None),
            source.find_snapshots("no-such"),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert "no-such" in caught.value.message
        await source.delete_snapshot("no-such", FIRST)
        await source.delete_change_base("no-such", FIRST)


async def test_snapshot_is_idempotent(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        first = await source.create_snapshot(origin.instance, FIRST, None)
        try:
            assert await source.create_snapshot(origin.instance, FIRST, None) == first
            assert {disk.disk_id: disk.size_bytes for disk in first.disks} == dict.fromkeys(origin.truth, origin.size)
            assert first.change_base == bool(origin.change_log)
            if origin.live:
                assert FIRST in await source.find_snapshots(origin.instance)
        finally:
            for _ in range(2):
                await source.delete_snapshot(origin.instance, FIRST)
            kept = await source.find_snapshots(origin.instance)
            assert kept == ([FIRST] if origin.change_log else [])
            for _ in range(2):
                await source.delete_change_base(origin.instance, FIRST)
            assert await source.find_snapshots(origin.instance) == []


async def test_another_connection_sees_the_same_snapshot(origin: Origin) -> None:
    """A killed task's successor reconnects and goes on."""
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        first = await source_of(connection).create_snapshot(origin.instance, FIRST, None)
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        try:
            for disk, truth in origin.truth.items():
                assert await content(source, first, disk) == truth
            assert await source.create_snapshot(origin.instance, FIRST, None) == first
        finally:
            await clean_up(source, origin.instance)


async def test_extents(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        snapshot = await source.create_snapshot(origin.instance, FIRST, None)
        try:
            for disk, truth in origin.truth.items():
                for start in (0, 1, BLOCK, origin.size // 2 + 511, origin.size - 1, origin.size):
                    extents = await allocated(source, snapshot, disk, start)
                    check_gapless(extents, start, origin.size)
                    for extent in extents:
                        if extent.kind is not ExtentKind.DATA:
                            assert is_zero(truth, extent.offset, extent.end)
                with pytest.raises(InvalidInput):
                    await allocated(source, snapshot, disk, origin.size + 1)
            with pytest.raises(NotFound):
                await allocated(source, snapshot, "no-such-disk")
        finally:
            await clean_up(source, origin.instance)


async def test_reader(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        snapshot = await source.create_snapshot(origin.instance, FIRST, None)
        try:
            for disk, truth in origin.truth.items():
                async with source.open_reader(snapshot, disk) as reader:
                    assert reader.size == origin.size
                    assert reader.block_size & (reader.block_size - 1) == 0
                    pieces = [
                        reader.read_at(at, min(100_001, origin.size - at)) for at in range(0, origin.size, 100_001)
                    ]
                    assert b"".join(await asyncio.gather(*pieces)) == truth
                    assert await reader.read_at(origin.size, 0) == b""
                    for offset, length in ((origin.size, 1), (origin.size - 1, 2), (-1, 1), (0, -1)):
                        with pytest.raises(InvalidInput):
                            await reader.read_at(offset, length)
            with pytest.raises(NotFound):
                async with source.open_reader(snapshot, "no-such-disk"):
                    pass
        finally:
            await clean_up(source, origin.instance)


async def test_snapshot_is_frozen(origin: Origin) -> None:
    if origin.write is None:
        pytest.skip("nobody can write to this origin")
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        before = {disk: bytes(truth) for disk, truth in origin.truth.items()}
        snapshot = await source.create_snapshot(origin.instance, FIRST, None)
        try:
            for disk in origin.truth:
                origin.write(disk, 0, BLOCK, 0x55)
                origin.write(disk, origin.size // 4, BLOCK, 0x66)
                assert await content(source, snapshot, disk) == before[disk]
        finally:
            await clean_up(source, origin.instance)


async def test_changed_extents_never_under_report(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        try:
            await source.create_snapshot(origin.instance, FIRST, None)
            old = {disk: bytes(truth) for disk, truth in origin.truth.items()}
            if origin.write is not None:
                for disk in origin.truth:
                    origin.write(disk, BLOCK, 512, 0x11)  # while the first snapshot stands
            await source.delete_snapshot(origin.instance, FIRST)
            if origin.write is not None:
                for disk in origin.truth:
                    origin.write(disk, 2 * BLOCK + 512, 3 * BLOCK, 0x22)
                    origin.write(disk, origin.size - 4096, 4096, 0x33)
            second = await source.create_snapshot(origin.instance, SECOND, FIRST)
            for disk, truth in origin.truth.items():
                if disk not in origin.change_log:
                    with pytest.raises(ChangeLogLost):
                        await changed(source, FIRST, second, disk)
                    continue
                await _check_changes(source, second, disk, old[disk], bytes(truth), origin.size)
            with pytest.raises(ChangeLogLost):
                await changed(source, "coriolis-never-made", second, next(iter(origin.truth)))
        finally:
            await clean_up(source, origin.instance)


async def _check_changes(
    source: SnapshotSource, target: Snapshot, disk: str, old: bytes, new: bytes, size: int
) -> None:
    extents = await changed(source, FIRST, target, disk)
    rebuilt, position = bytearray(old), 0
    async with source.open_reader(target, disk) as reader:
        for extent in extents:
            assert extent.offset >= position
            position = extent.end
            rebuilt[extent.offset : extent.end] = await reader.read_at(extent.offset, extent.length)
    assert rebuilt == new
    assert position <= size
    assert sum(extent.length for extent in extents) < size // 2
    later = await changed(source, FIRST, target, disk, size // 2)
    assert later == [extent for extent in extents if extent.offset >= size // 2]


async def test_missing_base_still_freezes(origin: Origin) -> None:
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        try:
            snapshot = await source.create_snapshot(origin.instance, SECOND, "coriolis-never-made")
            for disk, truth in origin.truth.items():
                assert await content(source, snapshot, disk) == truth
                with pytest.raises(ChangeLogLost):
                    await changed(source, "coriolis-never-made", snapshot, disk)
        finally:
            await clean_up(source, origin.instance)


async def test_ended_snapshot_is_not_readable_by_surprise(origin: Origin) -> None:
    """Reading after the end gives the same bytes (immutable files) or our error, never other bytes."""
    async with origin.provider.connect(origin.connection_info, origin.surroundings) as connection:
        source = source_of(connection)
        disk, truth = next(iter(origin.truth.items()))
        snapshot = await source.create_snapshot(origin.instance, FIRST, None)
        await source.delete_snapshot(origin.instance, FIRST)
        old = bytes(truth)
        if origin.write is not None:
            origin.write(disk, 0, 4096, 0x77)
        try:
            read = old
            with contextlib.suppress(NotFound, Conflict):
                read = await content(source, snapshot, disk)
            assert read == old
        finally:
            await clean_up(source, origin.instance)
