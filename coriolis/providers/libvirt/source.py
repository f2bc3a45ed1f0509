"""Meets ``SnapshotSource``: chooses between a live backup job and the files of a stopped domain."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from coriolis.errors import Conflict, InvalidInput
from coriolis.model.disk import Extent, Snapshot
from coriolis.providers.base import BlockReader
from coriolis.providers.libvirt.backup_xml import PREFIX
from coriolis.providers.libvirt.live import IDENTITY as LIVE
from coriolis.providers.libvirt.live import LiveSnapshots, delete_checkpoint, find_checkpoint, running_job
from coriolis.providers.libvirt.session import Session, find_domain, get_domain
from coriolis.providers.libvirt.stopped import StoppedSnapshots

MAX_NAME_CHARS = 63
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def check_name(name: str) -> None:
    """Snapshot names become file and bitmap names; our prefix lets us find them again."""
    if not name.startswith(PREFIX) or len(name) > MAX_NAME_CHARS or not set(name) <= _ALLOWED:
        raise InvalidInput(f"snapshot name {name[:80]!r} must start with {PREFIX} and have at most 63 plain characters")


class LibvirtSource:
    """See ``live`` and ``stopped`` for how each freezes."""

    def __init__(self, session: Session, live: LiveSnapshots, stopped: StoppedSnapshots) -> None:
        self._session, self._live, self._stopped = session, live, stopped

    async def _is_active(self, instance_id: str) -> bool:
        return await self._session.run(lambda c: bool(get_domain(c, instance_id).isActive()))

    async def create_snapshot(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        check_name(name)
        if await self._is_active(instance_id):
            return await self._live.create(instance_id, name, base)
        return await self._stopped.create(instance_id, name)

    async def delete_snapshot(self, instance_id: str, name: str) -> None:
        await self._live.end(instance_id, name)

    async def delete_change_base(self, instance_id: str, name: str) -> None:
        await self._live.end(instance_id, name)
        state = await self._session.run(lambda c: _checkpoint_state(c, instance_id, name))
        if state == "running":
            await self._session.run(lambda c: delete_checkpoint(get_domain(c, instance_id), name))
        elif state == "stopped":
            await self._stopped.remove_checkpoint(instance_id, name)

    async def find_snapshots(self, instance_id: str) -> list[str]:
        return await self._session.run(lambda c: _names(c, instance_id))

    def _part(self, snapshot: Snapshot) -> LiveSnapshots | StoppedSnapshots:
        return self._live if snapshot.identity.startswith(LIVE) else self._stopped

    def allocated_extents(self, snapshot: Snapshot, disk_id: str, starting_offset: int = 0) -> AsyncIterator[Extent]:
        return self._part(snapshot).extents(snapshot, disk_id, starting_offset)

    def changed_extents(
        self, base: str, target: Snapshot, disk_id: str, starting_offset: int = 0
    ) -> AsyncIterator[Extent]:
        return self._part(target).changes(base, target, disk_id, starting_offset)

    def open_reader(self, snapshot: Snapshot, disk_id: str) -> AbstractAsyncContextManager[BlockReader]:
        return self._part(snapshot).reader(snapshot, disk_id)


def _checkpoint_state(connection: Any, instance_id: str, name: str) -> str:
    domain = find_domain(connection, instance_id)
    if domain is None or find_checkpoint(domain, name) is None:
        return ""
    return "running" if domain.isActive() else "stopped"


def _names(connection: Any, instance_id: str) -> list[str]:
    domain = get_domain(connection, instance_id)
    names = {c.getName() for c in domain.listAllCheckpoints()}
    if domain.isActive():
        with contextlib.suppress(Conflict):  # a job of another kind is not ours
            job = running_job(domain)
            names.add(job.name if job is not None else "")
    return sorted(name for name in names if name.startswith(PREFIX))
