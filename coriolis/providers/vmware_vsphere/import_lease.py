"""Makes a machine with its disks: ``ResourcePool.ImportVApp`` gives a lease, each disk goes to one of its URLs.

The lease is kept alive by its progress until it is completed; when anything fails it is aborted, and vSphere removes
what it had made (HttpNfcLease, vSphere Web Services API). A simulator does not; ``VsphereInstances`` removes the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from pyVmomi import vim

from coriolis.convert.text import shown
from coriolis.errors import CoriolisError, Corrupt, Throttled, TimedOut, Unavailable
from coriolis.providers.block.calls import Calls
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.raw_io import open_disk
from coriolis.providers.vmware_vsphere.disk_stream import PACKERS, vmdk_pieces
from coriolis.providers.vmware_vsphere.disk_upload import DiskUpload
from coriolis.providers.vmware_vsphere.placement import Place
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.session import Session, from_fault

READY_TIMEOUT_S = 600.0
"""With thick disks the host may first write zeroes."""
POLL_S = 0.5
KEEP_ALIVE_S = 10.0
"""A lease ends after some 300 s without progress."""
UNHEARD_S = 240.0
"""So long the endpoint may be out of reach while its hosts take the disks."""
ABORT_TIMEOUT_S = 30.0
PARALLEL_DISKS = 4
MAX_URLS = 256
_BY_PLACE = re.compile(r"([0-9]+):([0-9]+)$")
_BY_NUMBER = re.compile(r":([0-9]+)$")


class DiskFile(msgspec.Struct, frozen=True):
    """A staged disk and where it is plugged in."""

    path: str
    size_bytes: int
    bus: int
    unit: int


class Target(msgspec.Struct, frozen=True):
    """Where vSphere wants one disk. ``thumbprint``: of the host's certificate, may be empty."""

    url: str
    thumbprint: str


class Ready(msgspec.Struct, frozen=True):
    """A lease that takes disks. ``machine``: managed object id. ``targets``: one for each disk."""

    lease: str
    machine: str
    targets: tuple[Target, ...]


def match_urls(keys: Sequence[str], disks: Sequence[DiskFile]) -> list[int]:
    """Index into ``disks`` for each key of a lease's disk URLs.

    vSphere names the device by controller and unit (``/vm-42/ParaVirtualSCSIController0:1``); simulators only count
    (``/vm-42/disk:1``). Raises Corrupt when it is not clear which URL belongs to which disk.
    """
    places = {(disk.bus, disk.unit): index for index, disk in enumerate(disks)}
    found = []
    for key in keys:
        if match := _BY_PLACE.search(key):
            found.append(places.get((int(match[1]), int(match[2])), -1))
        else:
            found.append(int(match[1]) if (match := _BY_NUMBER.search(key)) else -1)
    if sorted(found) != list(range(len(disks))):
        raise Corrupt(f"the import lease has URLs for {shown(', '.join(keys))}, which are not the {len(disks)} disks")
    return found


class Import:
    """One attempt; ``run`` gives the machine's managed object id, with whole disks, or raises."""

    def __init__(self, session: Session, info: Mapping[str, Any], disks: Sequence[DiskFile]) -> None:
        self._session, self._info, self._disks = session, info, disks
        self._reached = [0] * len(disks)

    async def run(self, place: Place, spec: Any) -> str:
        """Raises what vSphere raises, TimedOut, Unavailable, Denied, QuotaExceeded. An aborted lease is left behind."""
        lease = await self._session.run(lambda content: _begin(content, place, spec))
        try:
            ready = await self._ready(lease)
            await self._upload_all(ready)
            await self._call(lease, lambda one: one.HttpNfcLeaseComplete())
        except BaseException:
            with contextlib.suppress(CoriolisError, TimeoutError):
                async with asyncio.timeout(ABORT_TIMEOUT_S):
                    await asyncio.shield(self._call(lease, lambda one: one.HttpNfcLeaseAbort()))
            raise
        return ready.machine

    async def _call(self, lease: str, call: Any) -> None:
        await self._session.run(lambda content: call(vim.HttpNfcLease(lease, content.rootFolder._stub)))

    async def _ready(self, lease: str) -> Ready:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if await self._session.run(lambda content: _is_ready(content, lease, self._session.where)):
                return await self._session.run(lambda content: _described(content, lease, self._disks))
            await asyncio.sleep(POLL_S)
        raise TimedOut(f"vSphere at {self._session.where} did not make the machine within {READY_TIMEOUT_S:.0f} s")

    async def _upload_all(self, ready: Ready) -> None:
        """All disks, some at a time. The first failure stops the others."""
        calls, packers = Calls(PARALLEL_DISKS, "vsphere-upload"), ThreadPoolExecutor(PACKERS, "vsphere-pack")
        uploads = [DiskUpload(self._info, target.url, target.thumbprint) for target in ready.targets]
        try:
            async with asyncio.TaskGroup() as group:
                alive = group.create_task(self._keep_alive(ready.lease))
                sent = [
                    asyncio.ensure_future(calls.run(self._upload, index, upload, packers))
                    for index, upload in enumerate(uploads)
                ]
                await asyncio.gather(*sent)
                alive.cancel()
        except BaseExceptionGroup as failed:
            raise _first(failed) from failed
        finally:
            for upload in uploads:
                upload.stop()
            await calls.close(lambda: packers.shutdown(wait=False, cancel_futures=True))

    def _upload(self, index: int, upload: DiskUpload, packers: ThreadPoolExecutor) -> None:
        disk = self._disks[index]
        descriptor = open_disk(disk.path)

        def reached(offset: int) -> None:
            self._reached[index] = offset

        pieces = vmdk_pieces(descriptor, disk.size_bytes, packers, reached)
        try:
            upload.send(pieces)
        except OSError as error:
            raise from_os_error(error, f"read the staged disk {disk.path}") from error
        finally:
            pieces.close()
            os.close(descriptor)

    async def _keep_alive(self, lease: str) -> None:
        total = sum(disk.size_bytes for disk in self._disks) or 1
        heard = time.monotonic()
        while True:
            percent = min(99, 100 * sum(self._reached) // total)
            try:
                await self._call(lease, lambda one, percent=percent: one.HttpNfcLeaseProgress(percent))
                heard = time.monotonic()
            except (Unavailable, TimedOut, Throttled):
                if time.monotonic() - heard > UNHEARD_S:
                    raise
            await asyncio.sleep(KEEP_ALIVE_S)


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one that stopped the others."""
    one = failed.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one


def _begin(content: Any, place: Place, spec: Any) -> str:
    stub = content.rootFolder._stub
    pool = vim.ResourcePool(place.pool.id, stub)
    host = vim.HostSystem(place.host, stub) if place.host else None
    lease = pool.ImportVApp(spec=spec, folder=vim.Folder(place.folder.id, stub), host=host)
    return str(lease._moId)


def _is_ready(content: Any, lease: str, where: str) -> bool:
    one = vim.HttpNfcLease(lease, content.rootFolder._stub)
    state = str(next(some(content, [one], ["state"]))[1].get("state", ""))
    if state == "error":
        raise from_fault(next(some(content, [one], ["error"]))[1]["error"], where)
    if state == "done":
        raise Unavailable(f"vSphere at {where} ended the import lease before a disk was sent")
    return state == "ready"


def _described(content: Any, lease: str, disks: Sequence[DiskFile]) -> Ready:
    info = next(some(content, [vim.HttpNfcLease(lease, content.rootFolder._stub)], ["info"]))[1]["info"]
    urls = [one for one in list(info.deviceUrl)[:MAX_URLS] if one.disk]
    targets = [Target("", "")] * len(disks)
    for url, index in zip(urls, match_urls([one.key for one in urls], disks), strict=True):
        targets[index] = Target(url.url, url.sslThumbprint or "")
    return Ready(lease, str(info.entity._moId), tuple(targets))
