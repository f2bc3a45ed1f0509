"""Ways to read a disk, tried in order: VDDK, ranges of its datastore over HTTPS, an export lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import msgspec

from coriolis.errors import (
    Conflict,
    CoriolisError,
    Corrupt,
    Denied,
    NotFound,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)
from coriolis.providers.base import BlockReader
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere.certificate import fetch_certificate, thumbprint
from coriolis.providers.vmware_vsphere.connection_slots import PER_ENDPOINT, PER_HOST, Limit, connections
from coriolis.providers.vmware_vsphere.export_lease import disk_batches
from coriolis.providers.vmware_vsphere.folder_reader import CONNECTIONS, Endpoint, folder_path, open_folder
from coriolis.providers.vmware_vsphere.place import Place
from coriolis.providers.vmware_vsphere.session import Session
from coriolis.providers.vmware_vsphere.snapshots import FrozenDisk, FrozenMachine
from coriolis.providers.vmware_vsphere.stream_reader import StreamReader
from coriolis.providers.vmware_vsphere.vddk_disk import CONNECTIONS as VDDK_CONNECTIONS
from coriolis.providers.vmware_vsphere.vddk_disk import VddkDisk, obstacle, vddk_reader

Name = Literal["vddk", "datastore", "export"]
ORDER: tuple[Name, ...] = ("vddk", "datastore", "export")
SHOWN: Mapping[Name, str] = {
    "vddk": "VDDK (nbdkit)",
    "datastore": "ranges of the datastore over HTTPS",
    "export": "an export lease, from its beginning to its end",
}
_NO_FILES = {"vsan": "vSAN", "vvol": "a virtual volume"}
_SHA1_CHARS = 59
_PASSABLE = (Denied, Conflict, NotFound, Unsupported, Unavailable, Throttled, TimedOut, Corrupt)


class View(msgspec.Struct, frozen=True):
    """What is to be read and where it is."""

    machine: FrozenMachine
    disk: FrozenDisk
    place: Place


def datastore_of(file: str) -> str:
    """``ds1`` of ``[ds1] folder/disk.vmdk``."""
    return file[1 : file.index("]")] if file.startswith("[") and "]" in file else ""


def no_ranges(view: View) -> str:
    """Why a disk has no flat extent that could be read; empty when it has one. Pure."""
    if view.disk.chained:
        return "the disk is a link of a chain of snapshots"
    if view.disk.kind == "raw_mapping":
        return "the disk is mapped to a LUN"
    kind = _NO_FILES.get(view.place.datastores.get(datastore_of(view.disk.file), "").lower(), "")
    if kind:
        return f"the disk is on {kind}, which has no flat extents"
    return "" if view.disk.file.endswith(".vmdk") else "the endpoint does not name the disk's file"


def flat_file(file: str) -> str:
    """``[ds] vm/disk-flat.vmdk`` of the descriptor ``[ds] vm/disk.vmdk``."""
    return file.removesuffix(".vmdk") + "-flat.vmdk"


class Transports:
    """Opens disks by the first way that works, and says which and why not the others."""

    def __init__(self, session: Session, info: Mapping[str, Any], surroundings: Surroundings) -> None:
        self._session, self._info, self._around = session, info, surroundings
        chosen = surroundings.environment.get("disk_transport", "auto")
        self.wanted: tuple[Name, ...] = ORDER if chosen == "auto" else (chosen,)

    @asynccontextmanager
    async def open(self, view: View) -> AsyncIterator[BlockReader]:
        """Raises Unavailable when no way works now, Unsupported when none ever will."""
        passed: list[str] = []
        hope = False
        async with AsyncExitStack() as stack:
            for name in self.wanted:
                reason = await self._obstacle(name, view)
                if not reason:
                    try:
                        reader = await stack.enter_async_context(self._way(name, view))
                    except _PASSABLE as error:
                        reason = error.message
                        hope = hope or isinstance(error, Unavailable | Throttled | TimedOut)
                    else:
                        break
                passed.append(f"{name}: {reason}")
            else:
                kind: type[CoriolisError] = Unavailable if hope else Unsupported
                raise kind(f"disk {view.disk.disk_id} cannot be read: {'; '.join(passed)}")
            without = f" (not by {'; '.join(passed)})" if passed else ""
            self._around.tell(f"disk {view.disk.disk_id}: read by {SHOWN[name]}{without}")
            yield reader

    async def reads_without_snapshot(self, views: Sequence[View]) -> bool:
        """Whether the disks of a machine that is off can be read as they are: VDDK, or ranges that one disk proved."""
        if "vddk" in self.wanted and not await obstacle(self._around.vddk_dir):
            return True
        if "datastore" not in self.wanted or any(no_ranges(view) for view in views):
            return False
        try:
            async with self._ranges(views[0]):
                return True
        except _PASSABLE as error:
            self._around.tell(f"the disks are read through a snapshot: {error.message}")
            return False

    async def _obstacle(self, name: Name, view: View) -> str:
        match name:
            case "vddk":
                return await obstacle(self._around.vddk_dir)
            case "datastore":
                return no_ranges(view)
            case "export":
                return "" if view.machine.snapshot else "a machine that is off is exported through a snapshot only"

    def _way(self, name: Name, view: View) -> AbstractAsyncContextManager[BlockReader]:
        match name:
            case "vddk":
                return self._vddk(view)
            case "datastore":
                return self._ranges(view)
            case "export":
                return self._export(view)

    def _connections(self, view: View, wanted: int) -> AbstractAsyncContextManager[int]:
        folder = self._around.state_dir / "vsphere-connections" if self._around.state_dir else None
        limits = (
            Limit(f"host {view.place.host} of {self._session.where}", self._info["max_connections_per_host"]),
            Limit(self._session.where, self._info["max_connections"]),
        )
        return connections(folder, limits, wanted, self._around.tell)

    @asynccontextmanager
    async def _vddk(self, view: View) -> AsyncIterator[BlockReader]:
        session, library = self._session, self._around.vddk_dir
        assert library is not None
        # the library sends the password to whoever has this certificate
        certificate = await session.run(lambda _: fetch_certificate(session.host, session.port, session.trust))
        disk = VddkDisk(
            library,
            session.host,
            session.port,
            self._info["username"],
            thumbprint(certificate, _SHA1_CHARS),
            view.machine.machine,
            view.machine.snapshot,
            view.disk.file,
        )
        async with (
            self._connections(view, VDDK_CONNECTIONS) as granted,
            vddk_reader(disk, self._info["password"], view.disk.size_bytes, granted) as reader,
        ):
            yield reader

    @asynccontextmanager
    async def _ranges(self, view: View) -> AsyncIterator[BlockReader]:
        session = self._session
        endpoint = Endpoint(session.host, session.port, session.trust, session.cookie)
        path = folder_path(view.place.datacenter, flat_file(view.disk.file))
        async with self._connections(view, CONNECTIONS) as granted:
            reader = await open_folder(endpoint, path, view.disk.size_bytes, granted)
            try:
                yield reader
            finally:
                await reader.close()

    @asynccontextmanager
    async def _export(self, view: View) -> AsyncIterator[BlockReader]:
        label = f"disk {view.disk.disk_id}"
        snapshot, disk = view.machine.snapshot, view.disk
        async with (
            self._connections(view, 1),
            StreamReader(lambda: disk_batches(self._session, snapshot, disk.disk_id), disk.size_bytes, label) as reader,
        ):
            yield reader


DEFAULT_LIMITS = {"max_connections": PER_ENDPOINT, "max_connections_per_host": PER_HOST}
