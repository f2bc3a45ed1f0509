"""Snapshots of a running domain: a pull-mode backup job, with a checkpoint as the next pass's change base.

One job runs per domain; qemu keeps overwritten blocks in scratch files and serves the frozen disks over NBD. The job
ends with the domain or with libvirtd's knowledge of it, and a job made again gets another nonce, so another identity.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import libvirt

from coriolis.errors import ChangeLogLost, Conflict, NotFound, QuotaExceeded, TimedOut
from coriolis.model.disk import Extent, Snapshot, SnapshotDisk
from coriolis.providers.base import BlockReader
from coriolis.providers.block.nbd_client import BASE_ALLOCATION, allocation, dirty, nbd_disk
from coriolis.providers.block.os_errors import free_bytes, from_os_error
from coriolis.providers.libvirt.backup_xml import (
    BITMAP_FORMATS,
    Job,
    JobDisk,
    backup_xml,
    checkpoint_xml,
    parse_backup,
    parse_scratch_name,
    socket_path,
)
from coriolis.providers.libvirt.domain_xml import Domain
from coriolis.providers.libvirt.inventory import check_readable, describe, disk_sizes
from coriolis.providers.libvirt.session import Session, get_domain

IDENTITY = "live:"
END_TIMEOUT_S = 60.0
POLL_S = 0.1
MAX_SOCKET_PATH_BYTES = 107

_BITMAP_GONE = "not found in backing chain"
"""libvirt 9.0 says so as an internal error."""

_NO_SECOND_TRY = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_SYSTEM_ERROR,
    }
)
"""Failures that a backup without a change log would meet as well."""


def running_job(domain: Any) -> Job | None:
    """The backup job that runs now. Raises Conflict when another kind of job does."""
    try:
        return parse_backup(domain.backupGetXMLDesc())
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID):
            raise
    if domain.isActive() and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
        raise Conflict(f"domain {domain.name()} is busy with another job: wait for it, see virsh domjobinfo")
    return None


def identity_of(uuid: str, job: Job) -> str:
    return f"{IDENTITY}{uuid}:{job.name}:{job.nonce}"


def find_checkpoint(domain: Any, name: str) -> Any:
    """The checkpoint, or None."""
    try:
        return domain.checkpointLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            return None
        raise


def delete_checkpoint(domain: Any, name: str) -> None:
    """Delete a checkpoint of an active domain with its bitmaps; fine when absent.

    After a crash of qemu its bitmaps are inconsistent, qemu hides them, and libvirt then refuses; only the record can
    go. The dead bitmap in the qcow2 file records nothing and goes when the domain is cleaned up while stopped.
    """
    checkpoint = find_checkpoint(domain, name)
    if checkpoint is None:
        return
    try:
        checkpoint.delete()
    except libvirt.libvirtError as error:
        if _BITMAP_GONE not in str(error):
            raise
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def _attempts(domain: Any, parsed: Domain, base: str | None) -> list[tuple[str, dict[str, bool]]]:
    """(base, disks that keep bitmaps), best first: with the wanted change log, with a new one only, with none."""
    keeps = {disk.target: disk.format in BITMAP_FORMATS for disk in parsed.disks}
    without = dict.fromkeys(keeps, False)
    if not any(keeps.values()) or not domain.isPersistent():
        return [("", without)]
    has_base = base is not None and find_checkpoint(domain, base) is not None
    wanted = [(base, keeps)] if base is not None and has_base else []
    return [*wanted, ("", keeps), ("", without)]


def _begin(domain: Any, parsed: Domain, folder: str, name: str, base: str | None) -> None:
    attempts = _attempts(domain, parsed, base)
    for number, (incremental, disks) in enumerate(attempts, 1):
        nonce = secrets.token_hex(8)
        backup = backup_xml(folder, parsed.uuid, name, nonce, disks, parsed.other_targets, incremental)
        checkpoint = checkpoint_xml(name, disks, parsed.other_targets) or None
        try:
            domain.backupBegin(backup, checkpoint)
            return
        except libvirt.libvirtError as error:
            # A base whose bitmap is gone, or an old qcow2 without bitmaps: freeze without it. The caller then
            # learns from ChangeLogLost that it must compare.
            if number == len(attempts) or error.get_error_code() in _NO_SECOND_TRY:
                raise


class LiveSnapshots:
    """The part of ``SnapshotSource`` for domains that have a qemu process."""

    def __init__(self, session: Session, folder: str, min_free: int) -> None:
        self._session, self._folder, self._min_free = session, folder, min_free

    async def create(self, instance_id: str, name: str, base: str | None) -> Snapshot:
        return await self._session.run(lambda c: self._create(c, instance_id, name, base))

    def _create(self, connection: Any, instance_id: str, name: str, base: str | None) -> Snapshot:
        domain = get_domain(connection, instance_id)
        parsed = describe(connection, domain)
        job = running_job(domain)
        if job is None:
            check_readable(parsed)
            self._prepare_folder(parsed.uuid)
            # If it stands, its job ended with a restart: the moment it marks cannot be read any more.
            delete_checkpoint(domain, name)
            _begin(domain, parsed, self._folder, name, base if base != name else None)
            job = running_job(domain)
        if job is None:
            raise NotFound(f"the backup job of {parsed.name} ended at once: is the domain stopping?")
        if job.name != name:
            owner = f"our snapshot {job.name}: delete it first" if job.name else "another tool: virsh domjobabort"
            raise Conflict(f"a backup job runs on domain {parsed.name} for {owner}; one at a time is possible")
        sizes = disk_sizes(domain, parsed)
        disks = tuple(SnapshotDisk(d.target, sizes[d.target]) for d in parsed.disks if job.disk(d.target))
        return Snapshot(
            name, instance_id, identity_of(parsed.uuid, job), disks, find_checkpoint(domain, name) is not None
        )

    def _prepare_folder(self, uuid: str) -> None:
        """Make the scratch folder for qemu's user, remove what crashed jobs left, and check the space."""
        longest = len(os.fsencode(socket_path(self._folder, "0" * 16)))
        if longest > MAX_SOCKET_PATH_BYTES:
            raise Conflict(f"scratch_dir {self._folder} is too long for a unix socket: choose a shorter path")
        try:
            if not os.path.isdir(self._folder):
                os.mkdir(self._folder, 0o710)
                above = os.stat(os.path.dirname(self._folder))
                os.chown(self._folder, above.st_uid, above.st_gid)
            self._remove_scratch(uuid)
            left = free_bytes(self._folder)
        except OSError as error:
            raise from_os_error(error, f"prepare scratch_dir {self._folder}") from error
        if left < self._min_free:
            # A full scratch file would make the guest's own writes fail.
            raise QuotaExceeded(
                f"scratch_dir {self._folder} has {left} bytes left, {self._min_free} are needed: free space there"
            )

    def _remove_scratch(self, uuid: str) -> None:
        for name in os.listdir(self._folder):
            known = parse_scratch_name(name)
            if known is not None and known[0] == uuid:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name))

    async def end(self, instance_id: str, name: str) -> None:
        """Stop the job of snapshot ``name`` if it runs; returns when it is gone."""
        if not await self._session.run(lambda c: _abort(c, instance_id, name)):
            return
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                while await self._session.run(lambda c: _runs(c, instance_id, name)):  # noqa: ASYNC110 - libvirtd's
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise TimedOut(f"the backup job of {instance_id} did not end within {END_TIMEOUT_S:g} s") from error

    async def _job_disk(self, snapshot: Snapshot, disk_id: str) -> tuple[str, JobDisk]:
        """(socket, disk) of the job behind ``snapshot``; NotFound when that job is gone."""

        def find(connection: Any) -> Job | None:
            job = running_job(get_domain(connection, snapshot.instance_id))
            uuid = snapshot.identity.removeprefix(IDENTITY).split(":", 1)[0]
            return job if job is not None and identity_of(uuid, job) == snapshot.identity else None

        job = await self._session.run(find)
        if job is None:
            raise NotFound(f"snapshot {snapshot.name} of {snapshot.instance_id} is gone: create it again")
        disk = job.disk(disk_id)
        if disk is None:
            raise NotFound(f"snapshot {snapshot.name} has no disk {disk_id!r}")
        return job.socket, disk

    async def extents(self, snapshot: Snapshot, disk_id: str, start: int) -> AsyncIterator[Extent]:
        socket, disk = await self._job_disk(snapshot, disk_id)
        async with nbd_disk(socket, disk.export, BASE_ALLOCATION) as served:
            async for extent in allocation(served, start):
                yield extent

    async def changes(self, base: str, target: Snapshot, disk_id: str, start: int) -> AsyncIterator[Extent]:
        socket, disk = await self._job_disk(target, disk_id)
        if disk.incremental != base or not disk.bitmap:
            raise ChangeLogLost(f"disk {disk_id} of {target.instance_id} has no change log since {base}")
        async with nbd_disk(socket, disk.export, f"qemu:dirty-bitmap:{disk.bitmap}") as served:
            async for extent in dirty(served, start):
                yield extent

    @asynccontextmanager
    async def reader(self, snapshot: Snapshot, disk_id: str) -> AsyncIterator[BlockReader]:
        socket, disk = await self._job_disk(snapshot, disk_id)
        async with nbd_disk(socket, disk.export) as served:
            yield served


def _abort(connection: Any, instance_id: str, name: str) -> bool:
    if not _runs(connection, instance_id, name):
        return False
    get_domain(connection, instance_id).abortJob()
    return True


def _runs(connection: Any, instance_id: str, name: str) -> bool:
    try:
        domain = get_domain(connection, instance_id)
        if not domain.isActive():
            return False
        return parse_backup(domain.backupGetXMLDesc()).name == name
    except NotFound:
        return False
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID):
            return False
        raise
