"""Meets ``SnapshotSource``: a snapshot of a machine that runs, the disks themselves of one that is off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from coriolis.errors import ChangeLogLost, CoriolisError, InvalidInput, NotFound
from coriolis.model.disk import Extent, Snapshot, SnapshotDisk
from coriolis.providers.base import BlockReader
from coriolis.providers.block.ranges import check_start
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere import change_tracking, held, snapshots
from coriolis.providers.vmware_vsphere.change_tracking import ALLOCATED, areas, with_holes
from coriolis.providers.vmware_vsphere.place import place_of
from coriolis.providers.vmware_vsphere.session import Session
from coriolis.providers.vmware_vsphere.snapshots import FrozenDisk, FrozenMachine
from coriolis.providers.vmware_vsphere.tasks import TASK_TIMEOUT_S
from coriolis.providers.vmware_vsphere.transports import Transports, View

log = structlog.get_logger(__name__)

MAX_NAME_CHARS = 63
STUN_SUFFIX = "-stun"
"""Of a snapshot that is made and removed at once, so that the machine pauses and tracking begins."""
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
SLOW_S = TASK_TIMEOUT_S + 120.0
AREAS_TIMEOUT_S = 900.0


def check_name(name: str) -> None:
    """Our prefix lets us find snapshots again; whoever cleans up removes nothing else."""
    if not name.startswith(snapshots.PREFIX) or len(name) > MAX_NAME_CHARS or not set(name) <= _ALLOWED:
        raise InvalidInput(
            f"snapshot name {name[:80]!r} must start with coriolis- and have at most 63 plain characters"
        )


class VsphereSource:
    """Instance ids are managed object ids, disk ids the keys of virtual devices."""

    def __init__(self, session: Session, transports: Transports, surroundings: Surroundings) -> None:
        self._session, self._transports, self._around = session, transports, surroundings

    # -- snapshots ----------------------------------------------------------------------------------------------

    async def create_snapshot(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        check_name(name)
        frozen = await self._session.run(lambda content: _standing(content, instance_id, name))
        if frozen is None and await self._session.run(lambda content: held.is_off(content, instance_id)):
            frozen = await self._hold(instance_id)
        if frozen is None:
            frozen = await self._session.run(lambda content: self._freeze(content, instance_id, name), SLOW_S)
        ids = {disk.disk_id: disk.change_id for disk in frozen.disks}
        tracked = bool(ids) and all(ids.values()) and await self._keep(instance_id, name, ids)
        disks = tuple(SnapshotDisk(disk.disk_id, disk.size_bytes) for disk in frozen.disks)
        return Snapshot(name, instance_id, frozen.identity, disks, change_base=tracked)

    def _freeze(self, content: Any, instance_id: str, name: str) -> FrozenMachine:
        vm = snapshots.machine(content, instance_id)
        stun = name + STUN_SUFFIX
        if self._around.environment.get("change_tracking", "auto") == "auto":
            snapshots.remove(content, instance_id, stun)
            if change_tracking.enable(content, vm):
                self._around.tell("changed block tracking was turned on; the machine pauses once for it to begin")
                snapshots.create(content, instance_id, stun)
                snapshots.remove(content, instance_id, stun)
        return snapshots.create(content, instance_id, name)

    async def _hold(self, instance_id: str) -> FrozenMachine | None:
        """A machine that is off, without a snapshot, when it can be read so. None: make a snapshot."""
        template = await self._session.run(lambda content: held.is_template(content, instance_id))
        tracks = self._around.environment.get("change_tracking", "auto") == "auto"
        if not template and tracks:
            await self._session.run(lambda c: change_tracking.enable(c, snapshots.machine(c, instance_id)), SLOW_S)
        frozen = await self._session.run(lambda content: held.hold(content, instance_id))
        if template:
            return frozen
        place = await self._session.run(lambda content: place_of(content, instance_id))
        views = [View(frozen, disk, place) for disk in frozen.disks]
        return frozen if views and await self._transports.reads_without_snapshot(views) else None

    async def _keep(self, instance_id: str, name: str, ids: dict[str, str]) -> bool:
        try:
            await self._session.run(
                lambda content: change_tracking.keep(content, snapshots.machine(content, instance_id), name, ids),
                SLOW_S,
            )
        except CoriolisError as error:  # e.g. a template, or a right that is missing: the next pass compares
            log.warning("change ids were not kept", instance=instance_id, snapshot=name, error=error.message)
            return False
        return True

    async def delete_snapshot(self, instance_id: str, name: str) -> None:
        check_name(name)

        def remove(content: Any) -> None:
            snapshots.remove(content, instance_id, name)
            snapshots.remove(content, instance_id, name + STUN_SUFFIX)

        await self._session.run(remove, SLOW_S)

    async def delete_change_base(self, instance_id: str, name: str) -> None:
        await self.delete_snapshot(instance_id, name)

        def forget(content: Any) -> None:
            try:
                vm = snapshots.machine(content, instance_id)
            except NotFound:
                return
            change_tracking.forget(content, vm, name)

        await self._session.run(forget, SLOW_S)

    async def find_snapshots(self, instance_id: str) -> list[str]:
        def find(content: Any) -> list[str]:
            vm = snapshots.machine(content, instance_id)
            standing = [name.removesuffix(STUN_SUFFIX) for name in snapshots.names(content, instance_id)]
            return sorted({*standing, *change_tracking.names_kept(content, vm)})

        return await self._session.run(find)

    # -- what is on the disks -----------------------------------------------------------------------------------

    def _find(self, content: Any, snapshot: Snapshot) -> FrozenMachine:
        """What ``snapshot`` froze. Raises NotFound when it is not what stands there now."""
        frozen = _standing(content, snapshot.instance_id, snapshot.name)
        if frozen is None and held.is_off(content, snapshot.instance_id):
            frozen = held.hold(content, snapshot.instance_id)
        if frozen is None or frozen.identity != snapshot.identity:
            raise NotFound(f"snapshot {snapshot.name} is gone or the machine was started meanwhile")
        return frozen

    async def _areas(
        self, snapshot: Snapshot, disk: FrozenDisk, frozen: FrozenMachine, base: str, start: int
    ) -> list[Extent]:
        def read(content: Any) -> list[Extent]:
            vm = snapshots.machine(content, snapshot.instance_id)
            taken = snapshots.reference(content, frozen.snapshot) if frozen.snapshot else None
            return list(areas(vm, taken, int(disk.disk_id), base, start, disk.size_bytes))

        return await self._session.run(read, AREAS_TIMEOUT_S)

    async def allocated_extents(
        self, snapshot: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        frozen = await self._session.run(lambda content: self._find(content, snapshot))
        disk = frozen.disk(disk_id)
        check_start(starting_offset, disk.size_bytes)
        found = [Extent(starting_offset, disk.size_bytes - starting_offset)]
        if disk.change_id:
            try:
                found = await self._areas(snapshot, disk, frozen, ALLOCATED, starting_offset)
            except ChangeLogLost as lost:
                self._around.tell(f"disk {disk_id}: {lost.message}; reading all of it")
        for extent in with_holes(found, starting_offset, disk.size_bytes) if disk.size_bytes > starting_offset else ():
            yield extent

    async def changed_extents(
        self, base: str, target: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        def both(content: Any) -> tuple[FrozenMachine, dict[str, str]]:
            vm = snapshots.machine(content, target.instance_id)
            return self._find(content, target), change_tracking.kept(content, vm, base)

        frozen, ids = await self._session.run(both)
        disk = frozen.disk(disk_id)
        check_start(starting_offset, disk.size_bytes)
        earlier = ids.get(disk_id, "")
        if not change_tracking.comparable(earlier, disk.change_id):
            why = "was reset or turned on since" if earlier and disk.change_id else "was not kept"
            raise ChangeLogLost(f"the change log of disk {disk_id} since {base} {why}")
        for extent in await self._areas(target, disk, frozen, earlier, starting_offset):
            yield extent

    @asynccontextmanager
    async def open_reader(self, snapshot: Snapshot, disk_id: str) -> AsyncIterator[BlockReader]:
        """Raises NotFound at the end too when the snapshot did not stand as long as it was read."""
        frozen = await self._session.run(lambda content: self._find(content, snapshot))
        place = await self._session.run(lambda content: place_of(content, snapshot.instance_id))
        async with self._transports.open(View(frozen, frozen.disk(disk_id), place)) as reader:
            yield reader
        # what was read of a snapshot that was removed meanwhile may be of two moments
        await self._session.run(lambda content: self._find(content, snapshot))


def _standing(content: Any, instance_id: str, name: str) -> FrozenMachine | None:
    found = snapshots.by_name(snapshots.tree(content, snapshots.machine(content, instance_id)), name)
    return snapshots.frozen(content, instance_id, found) if found is not None else None
