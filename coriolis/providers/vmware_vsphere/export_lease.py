"""Streams one disk of a snapshot by an export lease, as a stream-optimised VMDK over HTTPS.

``VirtualMachineSnapshot.ExportSnapshot`` and ``HttpNfcLease`` (vSphere Web Services API). Works everywhere and needs
nothing at the endpoint, but always sends the whole disk from its beginning. Each disk gets a lease of its own, which
ends unless its progress is told in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from pyVmomi import vim

from coriolis.errors import CoriolisError, Corrupt, Denied, NotFound, TimedOut
from coriolis.providers.vmware_vsphere.certificate import Trust, fetch_certificate, thumbprint
from coriolis.providers.vmware_vsphere.export_link import decoded
from coriolis.providers.vmware_vsphere.export_messages import Batch, Order
from coriolis.providers.vmware_vsphere.machine_spec import disks_of
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.session import Session, from_fault
from coriolis.providers.vmware_vsphere.snapshots import reference

READY_TIMEOUT_S = 120.0
POLL_S = 0.3
TELL_PROGRESS_S = 20.0
"""Leases end after five minutes of silence by default."""
STALL_S = 60.0
MAX_URLS = 200
_ON_CONTROLLER = re.compile(r"/([A-Za-z]+Controller)(\d+):(\d+)$")


def disk_url(urls: Sequence[Any], devices: Sequence[Any], disk_id: str) -> Any:
    """The device URL of a disk among those of a lease. Raises NotFound, Corrupt.

    Keys name controller, bus and unit (``/vm-63/ParaVirtualSCSIController0:1``); a server that writes other keys names
    the disk's file, or at least gives the disks in their order.
    """
    disks = [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]
    wanted = next((disk for disk in disks if str(disk.key) == disk_id), None)
    found = [url for url in urls[:MAX_URLS] if url.disk]
    if wanted is None or not found:
        raise NotFound(f"the export offers no disk {disk_id}")
    buses: dict[int | None, int] = {
        one.key: one.busNumber for one in devices if isinstance(one, vim.vm.device.VirtualController)
    }
    place = (buses.get(wanted.controllerKey, -1), wanted.unitNumber)
    kinds: dict[int | None, str] = {one.key: type(one).__name__.rpartition(".")[2] for one in devices}
    kind = kinds.get(wanted.controllerKey, "")
    for url in found:
        said = _ON_CONTROLLER.search(url.key or "")
        if said and said[1] == kind and (int(said[2]), int(said[3])) == place:
            return url
    file = (getattr(wanted.backing, "fileName", "") or "").rpartition("/")[2]
    named = [url for url in found if file and url.targetId == file]
    if len(named) == 1:
        return named[0]
    if len(found) != len(disks):
        raise Corrupt(f"the export offers {len(found)} disks of a machine with {len(disks)} and does not say which")
    ordered = [disk.key for disk in disks_of(devices)]
    return found[ordered.index(wanted.key)]


@asynccontextmanager
async def disk_batches(session: Session, snapshot_id: str, disk_id: str) -> AsyncIterator[AsyncIterator[Batch]]:
    """What a disk's export decodes to, from its beginning, under a lease that lives as long as this context.

    Raises Unavailable, TimedOut, Denied, NotFound (the snapshot), Unsupported.
    """
    lease = await session.run(lambda content: reference(content, snapshot_id).ExportSnapshot())
    done = False

    async def watched(batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        nonlocal done
        async for batch in batches:
            done = batch.ended
            yield batch

    try:
        urls = await _ready(session, lease)
        devices = await session.run(lambda content: _devices(content, snapshot_id))
        order = await asyncio.to_thread(_order, session, disk_url(urls, devices, disk_id))
        alive = asyncio.create_task(_keep_alive(session, lease))
        try:
            async with decoded(order) as batches:
                yield watched(batches)
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)
    finally:
        with contextlib.suppress(CoriolisError):
            await session.run(lambda content: _end(_of_login(content, lease), done=done))


def _devices(content: Any, snapshot_id: str) -> list[Any]:
    path = "config.hardware.device"
    return list(next(some(content, [reference(content, snapshot_id)], [path]))[1][path])


async def _ready(session: Session, lease: Any) -> list[Any]:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        values = await session.run(lambda content: next(some(content, [lease], ["state"]))[1])
        match str(values.get("state", "")):
            case "ready":
                info = await session.run(lambda content: next(some(content, [lease], ["info"]))[1]["info"])
                return list(info.deviceUrl)
            case "error":
                fault = await session.run(lambda content: next(some(content, [lease], ["error"]))[1].get("error"))
                raise from_fault(fault or Exception("the export lease failed"), session.where)
        await asyncio.sleep(POLL_S)
    raise TimedOut(f"{session.where} did not make an export lease ready within {READY_TIMEOUT_S:.0f} s")


async def _keep_alive(session: Session, lease: Any) -> None:
    """Tell progress so that the lease does not end; the server only wants to hear something.

    It bears several misses, so a call that fails is no end: that of a lease shows in its stream.
    """
    while True:
        await asyncio.sleep(TELL_PROGRESS_S)
        with contextlib.suppress(CoriolisError):
            await session.run(lambda content: _of_login(content, lease).HttpNfcLeaseProgress(50))


def _of_login(content: Any, lease: Any) -> Any:
    """The lease for calls by the present login, which may be another one than made it."""
    return vim.HttpNfcLease(lease._moId, content.rootFolder._stub)


def _end(lease: Any, *, done: bool) -> None:
    if done:
        lease.HttpNfcLeaseComplete()
    else:
        lease.HttpNfcLeaseAbort()


def _order(session: Session, url: Any) -> Order:
    """Blocking. Raises Denied, Unavailable."""
    parts = urlsplit(url.url)
    host = parts.hostname or ""
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if host in ("*", "", session.host):
        host, port, trust = session.host, session.port, session.trust
    else:
        port = parts.port or 443
        trust = lent_trust(host, port, url.sslThumbprint or "", session)
    return Order(host, port, path, session.cookie(), trust, STALL_S, os.getpid())


def lent_trust(host: str, port: int, wanted: str, session: Session) -> Trust:
    """For a host that the endpoint sends us to: the certificate whose thumbprint it states, else the endpoint's rules.

    Raises Denied, Unavailable.
    """
    if not wanted:
        return session.trust
    certificate = fetch_certificate(host, port, Trust(anything=True))
    if thumbprint(certificate, len(wanted)) != wanted.upper():
        raise Denied(f"{host}:{port} has another certificate than {session.where} states")
    return Trust(only=certificate)
