"""Meets ``SnapshotSource``: volumes through copies of their snapshots, a local root disk through its image.

Volumes in a Ceph that may be read here need no copy: their snapshots are read in place, and stay as change bases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from coriolis.errors import ChangeLogLost, Corrupt, InvalidInput, NotFound, Unsupported
from coriolis.model.disk import Extent, Snapshot, SnapshotDisk
from coriolis.providers.base import BlockReader
from coriolis.providers.block.file_disk import FileDisk, file_extents, file_reader
from coriolis.providers.block.ranges import check_start
from coriolis.providers.openstack import freeze_server
from coriolis.providers.openstack.attachment import Attacher
from coriolis.providers.openstack.ceph_access import snapshot_name
from coriolis.providers.openstack.ceph_cluster import CephCluster
from coriolis.providers.openstack.image_download import ImageFolder
from coriolis.providers.openstack.rbd_disk import RbdDisk
from coriolis.providers.openstack.rest import ask_or_none
from coriolis.providers.openstack.server_snapshots import Part, check_name
from coriolis.providers.openstack.session import Session
from coriolis.providers.openstack.shared_devices import SharedDevices
from coriolis.providers.openstack.snapshot_copies import begin_copy, finished_copy, remove_copies
from coriolis.providers.surroundings import Surroundings

FOLDER = "openstack-images"


class OpenstackSource:
    """Instance ids are Nova's; disk ids those of volumes, or ``root`` for the disk of a server booted from an image."""

    def __init__(
        self, session: Session, attacher: Attacher | None, surroundings: Surroundings, ceph: CephCluster | None = None
    ) -> None:
        self._session, self._attacher, self._around, self._ceph = session, attacher, surroundings, ceph
        self._told: dict[str, str] = {}
        self._devices = SharedDevices(attacher) if attacher is not None else None
        self._images: ImageFolder | None = None
        if surroundings.staging_dir is not None:
            self._images = ImageFolder(session, _folder(surroundings.staging_dir, session))

    # -- snapshots ----------------------------------------------------------------------------------------------

    async def create_snapshot(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        """Raises Unsupported, before anything is made, when this agent could not read what would be made."""
        check_name(name)
        frozen = await freeze_server.freeze(self._session, instance_id, name, self._around.tell)
        copied = [part for part in frozen.parts if not part.image and not await self._is_direct(part)]
        for part in frozen.parts:
            if part.image or part in copied:
                self._check_readable(part)
        # all at once, so that Cinder copies them side by side; whoever opens one waits for it
        await asyncio.gather(*(begin_copy(self._session, instance_id, name, part) for part in copied))
        disks = tuple(SnapshotDisk(part.disk_id, part.size_bytes) for part in frozen.parts)
        direct = any(not part.image and part not in copied for part in frozen.parts)
        return Snapshot(name, instance_id, frozen.identity, disks, change_base=direct)

    async def _is_direct(self, part: Part) -> bool:
        """Whether Ceph itself serves this disk here; an event says so, or why not."""
        if self._ceph is None or part.image:
            return False
        why = await self._ceph.obstacle(part.disk_id, part.size_bytes, part.id)
        if self._told.get(part.id) != why:
            self._told[part.id] = why
            if why:
                self._around.tell(f"disk {part.disk_id}: not read from Ceph ({why}), but through a copy", "WARNING")
            else:
                self._around.tell(f"disk {part.disk_id}: read straight from Ceph, which tells what changes")
        return not why

    def _check_readable(self, part: Part) -> None:
        """Of a disk that Ceph does not serve here."""
        if part.image and self._images is None:
            raise InvalidInput("a server that was booted from an image is read through staging_dir: configure it here")
        if part.image and not part.size_bytes:
            raise Unsupported(f"Glance does not say how large image {part.id} is unpacked; Victoria and later do")
        if not part.image and self._devices is None:
            ceph = self._told.get(part.id)
            raise InvalidInput(
                "volumes are attached where they are read, and this agent cannot: it is no server of the project, and"
                f" its configuration names no cinder_drivers{f'; from Ceph: {ceph}' if ceph else ''}"
            )

    async def delete_snapshot(self, instance_id: str, name: str) -> None:
        """Snapshots that Ceph serves here stay: the next pass asks it what changed since."""
        check_name(name)
        keep: set[str] = set()
        if self._ceph is not None:
            found = await freeze_server.find_volumes(self._session, instance_id, name)
            keep = {one.id for one in found if not await self._ceph.obstacle(one.disk_id, one.size_bytes, one.id)}
        await self._remove(instance_id, name, keep)

    async def delete_change_base(self, instance_id: str, name: str) -> None:
        check_name(name)
        await self._remove(instance_id, name, set())

    async def _remove(self, instance_id: str, name: str, keep: set[str]) -> None:
        await remove_copies(self._session, self._attacher, instance_id, name)
        await freeze_server.thaw(self._session, instance_id, name, keep)
        await self._sweep()

    async def find_snapshots(self, instance_id: str) -> list[str]:
        return sorted(await freeze_server.names(self._session, instance_id))

    async def _sweep(self) -> None:
        """Staged images that Glance does not have any more, also those of killed tasks."""
        if self._images is None:
            return
        for one in await self._images.staged():
            known = await self._session.read(partial(ask_or_none, service="image", path=f"/images/{one}"))
            if known is None or known["status"] in ("deleted", "pending_delete"):
                await self._images.remove(one)

    # -- what is on the disks -----------------------------------------------------------------------------------

    async def _part(self, snapshot: Snapshot, disk_id: str) -> tuple[Part, bool]:
        """With whether Ceph serves it. Raises NotFound when the snapshot does not stand as it was."""
        frozen = await freeze_server.find(self._session, snapshot.instance_id, snapshot.name)
        if frozen is None or frozen.identity != snapshot.identity:
            raise NotFound(f"snapshot {snapshot.name} of server {snapshot.instance_id} is gone")
        part = frozen.part(disk_id)
        if part is None:
            raise NotFound(f"snapshot {snapshot.name} has no disk {disk_id!r}")
        direct = await self._is_direct(part)
        if not direct:
            self._check_readable(part)
        return part, direct

    @asynccontextmanager
    async def _in_ceph(self, part: Part) -> AsyncIterator[RbdDisk]:
        """Raises NotFound at the end too when the snapshot did not stand as long as it was read."""
        assert self._ceph is not None  # _is_direct
        async with self._ceph.disk(part.disk_id, part.id) as disk:
            yield disk
            await disk.check_stands()

    @asynccontextmanager
    async def _file(self, snapshot: Snapshot, part: Part) -> AsyncIterator[FileDisk]:
        if part.image:
            assert self._images is not None  # _check_readable
            async with self._images.fetched(part) as path:
                yield FileDisk(path, part.format, stated_size=part.size_bytes)
            return
        assert self._devices is not None  # _check_readable
        volume_id = await finished_copy(self._session, snapshot.instance_id, snapshot.name, part)
        async with self._devices.device(volume_id) as device:
            yield FileDisk(device.path, device.format, inside=device.inside, stated_size=part.size_bytes)

    async def allocated_extents(
        self, snapshot: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        part, direct = await self._part(snapshot, disk_id)
        check_start(starting_offset, part.size_bytes)
        if direct:
            async with self._in_ceph(part) as disk:
                async for extent in disk.allocated(starting_offset):
                    yield extent
            return
        async with self._file(snapshot, part) as file:
            async for extent in file_extents(file, starting_offset):
                yield extent

    async def changed_extents(
        self, base: str, target: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        """Of volumes in a Ceph that may be read here; of others always raises ChangeLogLost."""
        part, direct = await self._part(target, disk_id)
        check_start(starting_offset, part.size_bytes)
        if not direct:
            raise ChangeLogLost(f"OpenStack tells no tenant what changed on disk {disk_id} since {base}")
        earlier = await freeze_server.find_volumes(self._session, target.instance_id, base)
        # of several that an interrupted attempt left, the oldest: what changed since is among what changed since it
        since = next((one.id for one in earlier if one.disk_id == disk_id), None)
        if since is None:
            raise ChangeLogLost(f"snapshot {base} of disk {disk_id} is gone")
        async with self._in_ceph(part) as disk:
            async for extent in disk.changed(snapshot_name(since), starting_offset):
                yield extent

    @asynccontextmanager
    async def open_reader(self, snapshot: Snapshot, disk_id: str) -> AsyncIterator[BlockReader]:
        part, direct = await self._part(snapshot, disk_id)
        if direct:
            async with self._in_ceph(part) as disk:
                yield disk
            return
        async with self._file(snapshot, part) as file, file_reader(file) as reader:
            if reader.size != part.size_bytes:
                raise Corrupt(f"disk {disk_id} has {reader.size} bytes here, its snapshot {part.size_bytes}")
            yield reader


def _folder(staging_dir: Path, session: Session) -> Path:
    name = "".join(one if one.isalnum() or one in ".-" else "_" for one in f"{session.where}_{session.project_id}")
    return staging_dir / FOLDER / name
