"""Streams one disk of a snapshot by an export lease, as a stream-optimised VMDK over HTTPS.

``VirtualMachineSnapshot.ExportSnapshot`` and ``HttpNfcLease`` (vSphere Web Services API). Works everywhere and needs
nothing at the endpoint, but always sends the whole disk from its beginning. Each disk gets a lease of its own, which
ends unless its progress is told in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from pyVmomi import vim

from coriolis.errors import CoriolisError, Corrupt, Denied, NotFound, Throttled, TimedOut, Unavailable
from coriolis.providers.block.calls import Calls
from coriolis.providers.vmware_vsphere.certificate import fetch_certificate, only, thumbprint
from coriolis.providers.vmware_vsphere.machine_spec import disks_of
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.session import Session, from_fault
from coriolis.providers.vmware_vsphere.snapshots import reference

READY_TIMEOUT_S = 120.0
POLL_S = 0.3
TELL_PROGRESS_S = 20.0
"""Leases end after five minutes of silence by default."""
PIECE_BYTES = 1 << 20
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
async def disk_pieces(session: Session, snapshot_id: str, disk_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of a disk's export, from its beginning, under a lease that lives as long as this context.

    Raises Unavailable, TimedOut, Denied, NotFound (the snapshot), Unsupported.
    """
    lease = await session.run(lambda content: reference(content, snapshot_id).ExportSnapshot())
    done = False
    try:
        urls = await _ready(session, lease)
        devices = await session.run(lambda content: _devices(content, snapshot_id))
        url = disk_url(urls, devices, disk_id)
        alive = asyncio.create_task(_keep_alive(session, lease))
        calls, answer = Calls(1, "vsphere-export"), _Answer()
        try:
            await calls.run(answer.open, session, url)
            yield _pieces(calls, answer)
            done = answer.ended
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)  # a lease that ended shows in the stream
            answer.interrupt()
            await calls.close(answer.close)
    finally:
        with contextlib.suppress(CoriolisError):
            await session.run(lambda content: lease.HttpNfcLeaseComplete() if done else lease.HttpNfcLeaseAbort())


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
    """Tell progress so that the lease does not end; the server only wants to hear something."""
    while True:
        await asyncio.sleep(TELL_PROGRESS_S)
        await session.run(lambda content: lease.HttpNfcLeaseProgress(50))


async def _pieces(calls: Calls, answer: _Answer) -> AsyncIterator[bytes]:
    """The next piece is fetched while the caller works on this one."""
    coming = asyncio.ensure_future(calls.run(answer.read))
    try:
        while piece := await coming:
            coming = asyncio.ensure_future(calls.run(answer.read))
            yield piece
    finally:
        coming.cancel()


class _Answer:
    """One HTTPS download; every method blocks."""

    def __init__(self) -> None:
        self.ended = False
        self._connection: http.client.HTTPSConnection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._where = ""

    def open(self, session: Session, url: Any) -> None:
        parts = urlsplit(url.url)
        host = parts.hostname or ""
        ours = host in ("*", "", session.host)
        host, port = (session.host, session.port) if ours else (host, parts.port or 443)
        self._where = f"{host}:{port}"
        context = session.context if ours else lent_context(host, port, url.sslThumbprint or "", session)
        self._connection = http.client.HTTPSConnection(host, port, timeout=STALL_S, context=context)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            self._connection.request("GET", path, headers={"Cookie": session.cookie()})
            self._answer = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"export from {self._where}: {error or type(error).__name__}") from error
        match self._answer.status:
            case 200:
                return
            case 401 | 403:
                raise Denied(f"export from {self._where} is refused (HTTP {self._answer.status})")
            case 404:
                raise Unavailable(f"export from {self._where}: the lease has ended (HTTP 404)")
            case 429 | 503:
                raise Throttled(f"export from {self._where}: the host is busy (HTTP {self._answer.status})")
            case other:
                raise Unavailable(f"export from {self._where} answers HTTP {other}")

    def read(self) -> bytes:
        """The next piece; empty at the end. Raises Unavailable, TimedOut."""
        assert self._answer is not None
        try:
            piece = self._answer.read(PIECE_BYTES)
        except TimeoutError as error:
            raise TimedOut(f"export from {self._where}: nothing came for {STALL_S:.0f} s") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"export from {self._where} broke off: {error or type(error).__name__}") from error
        self.ended = not piece
        return piece

    def interrupt(self) -> None:
        """Make a read that waits return."""
        sock = self._connection.sock if self._connection else None
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's own would pull the session from the reader

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def lent_context(host: str, port: int, wanted: str, session: Session) -> ssl.SSLContext:
    """For a host that the endpoint sends us to: the certificate whose thumbprint it states, else the endpoint's rules.

    Raises Denied, Unavailable.
    """
    if not wanted:
        return session.context
    certificate = fetch_certificate(host, port)
    if thumbprint(certificate, len(wanted)) != wanted.upper():
        raise Denied(f"{host}:{port} has another certificate than {session.where} states")
    return only(certificate)
