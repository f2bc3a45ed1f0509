"""Snapshots of an image directory: the files themselves, which nobody may change during a pass."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from coriolis.errors import ChangeLogLost, Conflict, NotFound
from coriolis.model.disk import Extent, Snapshot, SnapshotDisk
from coriolis.providers.base import BlockReader
from coriolis.providers.block.file_disk import Examined, FileDisk, examine, file_extents, file_reader
from coriolis.providers.image.description import disk_id
from coriolis.providers.image.inventory import load_entry
from coriolis.providers.image_check import DEFAULT_MAX_SIZE_BYTES


def identity(examined: list[Examined]) -> str:
    """Equal as long as no disk file was written, replaced or resized."""
    joined = "\n".join(f"{e.identity} {e.size_bytes}" for e in examined)
    return "image:" + hashlib.sha256(joined.encode()).hexdigest()


class ImageSource:
    """Meets ``SnapshotSource``. There is no change log, and a snapshot leaves no trace."""

    def __init__(self, directory: str, max_size: int = DEFAULT_MAX_SIZE_BYTES) -> None:
        self._directory, self._max_size = directory, max_size

    def _examine(self, instance_id: str) -> list[tuple[FileDisk, Examined]]:
        entry = load_entry(self._directory, instance_id)
        disks = [msgspec.structs.replace(disk, max_size=self._max_size) for disk in entry.disks]
        return [(disk, examine(disk)) for disk in disks]

    async def create_snapshot(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        found = await asyncio.to_thread(self._examine, instance_id)
        disks = tuple(SnapshotDisk(disk_id(i), e.size_bytes) for i, (_, e) in enumerate(found))
        return Snapshot(name, instance_id, identity([e for _, e in found]), disks)

    async def delete_snapshot(self, instance_id: str, name: str) -> None:
        """Nothing to delete."""

    async def delete_change_base(self, instance_id: str, name: str) -> None:
        """Nothing to delete."""

    async def find_snapshots(self, instance_id: str) -> list[str]:
        await asyncio.to_thread(load_entry, self._directory, instance_id)
        return []

    async def _disk(self, snapshot: Snapshot, wanted: str) -> tuple[FileDisk, Examined]:
        found = await asyncio.to_thread(self._examine, snapshot.instance_id)
        if identity([e for _, e in found]) != snapshot.identity:
            raise Conflict(f"a disk file of {snapshot.instance_id} changed since the snapshot: make a new snapshot")
        for index, pair in enumerate(found):
            if disk_id(index) == wanted:
                return pair
        raise NotFound(f"instance {snapshot.instance_id} has no disk {wanted!r}")

    async def allocated_extents(
        self, snapshot: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        disk, examined = await self._disk(snapshot, disk_id)
        async for extent in file_extents(disk, starting_offset, examined.identity):
            yield extent

    async def changed_extents(
        self, base: str, target: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        raise ChangeLogLost("image files keep no change log: compare digests")
        yield  # makes this an iterator, so that the error appears where it is read

    @asynccontextmanager
    async def open_reader(self, snapshot: Snapshot, disk_id: str) -> AsyncIterator[BlockReader]:
        disk, examined = await self._disk(snapshot, disk_id)
        async with file_reader(disk, examined.identity) as reader:
            yield reader
