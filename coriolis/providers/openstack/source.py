"""Meets ``SnapshotSource``: volumes through copies of their snapshots, a local root disk through its image."""

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
from coriolis.providers.openstack.image_download import ImageFolder
from coriolis.providers.openstack.rest import ask_or_none
from coriolis.providers.openstack.server_snapshots import Part, check_name
from coriolis.providers.openstack.session import Session
from coriolis.providers.openstack.shared_devices import SharedDevices
from coriolis.providers.openstack.snapshot_copies import begin_copy, finished_copy, remove_copies
from coriolis.providers.surroundings import Surroundings

FOLDER = "openstack-images"


class OpenstackSource:
    """Instance ids are Nova's; disk ids those of volumes, or ``root`` for the disk of a server booted from an image."""

    def __init__(self, session: Session, attacher: Attacher | None, surroundings: Surroundings) -> None:
        self._session, self._attacher, self._around = session, attacher, surroundings
        self._devices = SharedDevices(attacher) if attacher is not None else None
        self._images: ImageFolder | None = None
        if surroundings.staging_dir is not None:
            self._images = ImageFolder(session, _folder(surroundings.staging_dir, session))

    # -- snapshots ----------------------------------------------------------------------------------------------

    async def create_snapshot(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        """Raises Unsupported, before anything is made, when this agent could not read what would be made."""
        check_name(name)
        frozen = await freeze_server.freeze(self._session, instance_id, name, self._around.tell)
        for part in frozen.parts:
            self._check_readable(part)
        volumes = [part for part in frozen.parts if not part.image]
        # all at once, so that Cinder copies them side by side; whoever opens one waits for it
        await asyncio.gather(*(begin_copy(self._session, instance_id, name, part) for part in volumes))
        disks = tuple(SnapshotDisk(part.disk_id, part.size_bytes) for part in frozen.parts)
        return Snapshot(name, instance_id, frozen.identity, disks)

    def _check_readable(self, part: Part) -> None:
        if part.image and self._images is None:
            raise InvalidInput("a server that was booted from an image is read through staging_dir: configure it here")
        if part.image and not part.size_bytes:
            raise Unsupported(f"Glance does not say how large image {part.id} is unpacked; Victoria and later do")
        if not part.image and self._devices is None:
            raise InvalidInput(
                "volumes are attached where they are read, and this agent cannot: it is no server of the project, and"
                " its configuration names no cinder_drivers"
            )

    async def delete_snapshot(self, instance_id: str, name: str) -> None:
        check_name(name)
        await remove_copies(self._session, self._attacher, instance_id, name)
        await freeze_server.thaw(self._session, instance_id, name)
        await self._sweep()

    async def delete_change_base(self, instance_id: str, name: str) -> None:
        """There is no change log: the same."""
        await self.delete_snapshot(instance_id, name)

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

    async def _part(self, snapshot: Snapshot, disk_id: str) -> Part:
        """Raises NotFound when the snapshot does not stand as it was."""
        frozen = await freeze_server.find(self._session, snapshot.instance_id, snapshot.name)
        if frozen is None or frozen.identity != snapshot.identity:
            raise NotFound(f"snapshot {snapshot.name} of server {snapshot.instance_id} is gone")
        part = frozen.part(disk_id)
        if part is None:
            raise NotFound(f"snapshot {snapshot.name} has no disk {disk_id!r}")
        self._check_readable(part)
        return part

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
        part = await self._part(snapshot, disk_id)
        check_start(starting_offset, part.size_bytes)
        async with self._file(snapshot, part) as disk:
            async for extent in file_extents(disk, starting_offset):
                yield extent

    async def changed_extents(
        self, base: str, target: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        """Always raises ChangeLogLost."""
        raise ChangeLogLost(f"OpenStack tells no tenant what changed on disk {disk_id} since {base}")
        yield

    @asynccontextmanager
    async def open_reader(self, snapshot: Snapshot, disk_id: str) -> AsyncIterator[BlockReader]:
        part = await self._part(snapshot, disk_id)
        async with self._file(snapshot, part) as disk, file_reader(disk) as reader:
            if reader.size != part.size_bytes:
                raise Corrupt(f"disk {disk_id} has {reader.size} bytes here, its snapshot {part.size_bytes}")
            yield reader


def _folder(staging_dir: Path, session: Session) -> Path:
    name = "".join(one if one.isalnum() or one in ".-" else "_" for one in f"{session.where}_{session.project_id}")
    return staging_dir / FOLDER / name
