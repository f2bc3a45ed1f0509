"""Snapshots of a stopped domain: its disk files, read directly while nobody writes them.

A persistent checkpoint made while it ran still has its bitmap in the qcow2 file, so the last pass after shutdown reads
only what changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import libvirt

from coriolis.errors import ChangeLogLost, Conflict, CoriolisError, NotFound
from coriolis.model.disk import Extent, Snapshot, SnapshotDisk
from coriolis.providers.base import BlockReader
from coriolis.providers.block.file_disk import (
    Examined,
    FileDisk,
    examine,
    examine_open,
    file_changes,
    file_extents,
    file_reader,
)
from coriolis.providers.block.raw_io import open_disk
from coriolis.providers.block.tool import descriptor_path, pass_descriptor, run_tool
from coriolis.providers.libvirt.backup_xml import BITMAP_FORMATS, parse_checkpoint
from coriolis.providers.libvirt.domain_xml import Domain, DomainDisk
from coriolis.providers.libvirt.inventory import check_readable, describe
from coriolis.providers.libvirt.live import find_checkpoint
from coriolis.providers.libvirt.session import Session, get_domain

IDENTITY = "file:"
TOOL_TIMEOUT_S = 60.0


def bitmap_is_complete(info: str, name: str) -> bool:
    """Whether qemu-img's JSON shows bitmap ``name`` recording ever since it was made, and stored cleanly."""
    data = json.loads(info).get("format-specific", {}).get("data", {})
    found = next((b for b in data.get("bitmaps", ()) if b.get("name") == name), None)
    return found is not None and "auto" in found["flags"] and "in-use" not in found["flags"]


def file_disk(disk: DomainDisk, max_size: int) -> FileDisk:
    return FileDisk(disk.source, disk.format, max_size=max_size)


class StoppedSnapshots:
    """The part of ``SnapshotSource`` for domains without a qemu process."""

    def __init__(self, session: Session, max_size: int) -> None:
        self._session, self._max_size = session, max_size

    async def _stopped(self, instance_id: str) -> Domain:
        """The domain, which must not run."""

        def read(connection: Any) -> Domain:
            domain = get_domain(connection, instance_id)
            if domain.isActive():
                raise Conflict(f"domain {domain.name()} was started: make a new snapshot")
            return describe(connection, domain)

        found = await self._session.run(read)
        check_readable(found)
        return found

    def _examine(self, domain: Domain) -> tuple[str, dict[str, Examined]]:
        found = {disk.target: examine(file_disk(disk, self._max_size)) for disk in domain.disks}
        joined = "\n".join(f"{target} {e.identity} {e.size_bytes}" for target, e in sorted(found.items()))
        return IDENTITY + hashlib.sha256(f"{domain.uuid}\n{joined}".encode()).hexdigest(), found

    async def create(self, instance_id: str, name: str) -> Snapshot:
        domain = await self._stopped(instance_id)
        identity, found = await asyncio.to_thread(self._examine, domain)
        disks = tuple(SnapshotDisk(disk.target, found[disk.target].size_bytes) for disk in domain.disks)
        return Snapshot(name, instance_id, identity, disks)

    async def _disk(self, snapshot: Snapshot, disk_id: str) -> tuple[FileDisk, Examined]:
        domain = await self._stopped(snapshot.instance_id)
        identity, found = await asyncio.to_thread(self._examine, domain)
        if identity != snapshot.identity:
            raise Conflict(f"a disk of {domain.name} changed since the snapshot: make a new snapshot")
        for disk in domain.disks:
            if disk.target == disk_id:
                return file_disk(disk, self._max_size), found[disk_id]
        raise NotFound(f"domain {domain.name} has no disk {disk_id!r}")

    async def extents(self, snapshot: Snapshot, disk_id: str, start: int) -> AsyncIterator[Extent]:
        disk, examined = await self._disk(snapshot, disk_id)
        async for extent in file_extents(disk, start, examined.identity):
            yield extent

    async def changes(self, base: str, target: Snapshot, disk_id: str, start: int) -> AsyncIterator[Extent]:
        disk, examined = await self._disk(target, disk_id)
        bitmaps = await self._session.run(lambda c: _checkpoint_bitmaps(c, target.instance_id, base))
        bitmap = bitmaps.get(disk_id, "")
        if disk.format not in BITMAP_FORMATS or not bitmap or not await self._is_complete(disk, bitmap):
            raise ChangeLogLost(f"disk {disk_id} of {target.instance_id} has no change log since {base}")
        async for extent in file_changes(disk, bitmap, start, examined.identity):
            yield extent

    async def _is_complete(self, disk: FileDisk, bitmap: str) -> bool:
        descriptor = open_disk(disk.path)
        passed = pass_descriptor(descriptor)
        try:
            await asyncio.to_thread(examine_open, disk, descriptor)
            argv = ["qemu-img", "info", "-f", disk.format, "--output=json", descriptor_path(passed)]
            return bitmap_is_complete(await run_tool(argv, [passed], timeout_s=TOOL_TIMEOUT_S), bitmap)
        finally:
            os.close(passed)
            os.close(descriptor)

    @asynccontextmanager
    async def reader(self, snapshot: Snapshot, disk_id: str) -> AsyncIterator[BlockReader]:
        disk, examined = await self._disk(snapshot, disk_id)
        async with file_reader(disk, examined.identity) as reader:
            yield reader

    async def remove_checkpoint(self, instance_id: str, name: str) -> None:
        """Remove a checkpoint's bitmaps from the files, then libvirt's record, which it refuses to do itself."""
        domain = await self._stopped(instance_id)
        bitmaps = await self._session.run(lambda c: _checkpoint_bitmaps(c, instance_id, name))
        for disk in domain.disks:
            if disk.target in bitmaps and disk.format in BITMAP_FORMATS:
                await self._remove_bitmap(file_disk(disk, self._max_size), bitmaps[disk.target])
        await self._session.run(lambda c: _forget_checkpoint(c, instance_id, name))

    async def _remove_bitmap(self, disk: FileDisk, bitmap: str) -> None:
        descriptor = open_disk(disk.path, os.O_RDWR)
        passed = pass_descriptor(descriptor)
        try:
            await asyncio.to_thread(examine_open, disk, descriptor)
            argv = ["qemu-img", "bitmap", "--remove", "-f", disk.format, descriptor_path(passed), bitmap]
            await run_tool(argv, [passed], timeout_s=TOOL_TIMEOUT_S)
        except CoriolisError as error:
            if "not find bitmap" not in error.message and "not found" not in error.message:
                raise
        finally:
            os.close(passed)
            os.close(descriptor)


def _checkpoint_bitmaps(connection: Any, instance_id: str, name: str) -> dict[str, str]:
    checkpoint = find_checkpoint(get_domain(connection, instance_id), name)
    return {} if checkpoint is None else parse_checkpoint(checkpoint.getXMLDesc())


def _forget_checkpoint(connection: Any, instance_id: str, name: str) -> None:
    checkpoint = find_checkpoint(get_domain(connection, instance_id), name)
    if checkpoint is not None:
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
