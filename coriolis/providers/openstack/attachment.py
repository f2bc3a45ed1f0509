"""Cinder volumes attached where this agent runs, and opened: through os-brick, or through Nova in an instance."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from coriolis.errors import Conflict, CoriolisError, InvalidInput, NotFound, TimedOut
from coriolis.providers.base import BlockWriter
from coriolis.providers.block.nbd_client import BASE_ALLOCATION, nbd_disk
from coriolis.providers.block.qemu_nbd import Export, qemu_nbd
from coriolis.providers.block.raw_file import raw_writer
from coriolis.providers.block.raw_io import open_disk
from coriolis.providers.image_check import check_image
from coriolis.providers.openstack.brick import Brick, host_label
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.rest import ask, ask_or_none, remove
from coriolis.providers.openstack.session import Cloud, Session

log = structlog.get_logger(__name__)

FREE_TIMEOUT_S = 180.0
DEVICE_TIMEOUT_S = 120.0
DEVICE_POLL_S = 0.5
GIB = 1 << 30
FORMATS = ("raw", "qcow2")
ZEROED_DRIVERS = frozenset({"nfs", "rbd"})
"""Never-written ranges of a new volume read as zero there; of iscsi (LVM) nobody promises it."""
DEVICES = Path("/dev/disk/by-id")


class Device(msgspec.Struct, frozen=True):
    """What an attached volume is here. ``inside``: the directory that its file must not leave, or ""."""

    path: str
    format: str
    driver: str
    inside: str = ""


class Attacher(Protocol):
    def attached(self, volume_id: str) -> Any:
        """An asynchronous context with the ``Device``; attached by us before, by whomever, it is taken over."""
        ...

    async def release(self, volume_id: str) -> None:
        """Detach what agents of ours, dead or alive, left attached. Raises Conflict when a server has it."""
        ...


class BrickAttacher:
    """For an agent on the storage network."""

    def __init__(self, session: Session, brick: Brick) -> None:
        self._session, self._brick = session, brick

    @asynccontextmanager
    async def attached(self, volume_id: str) -> AsyncIterator[Device]:
        connector = await self._brick.properties()
        await self.release(volume_id)
        body = {"attachment": {"volume_uuid": volume_id, "connector": connector}}
        try:
            made = await self._session.change(lambda cloud: ask(cloud, "block_storage", "POST", "/attachments", body))
            attachment = made["attachment"]
            connection = {**attachment["connection_info"]}
            # before the connection: only then Cinder says later which host has it, should that fail or we be killed
            done = f"/attachments/{attachment['id']}/action"
            await self._session.change(lambda cloud: ask(cloud, "block_storage", "POST", done, {"os-complete": {}}))
            device = await self._brick.connect(connection)
            yield Device(
                device["path"],
                stated_format(connection),
                str(connection["driver_volume_type"]),
                self._brick.inside(connection),
            )
        finally:
            await _to_the_end(self.release(volume_id))

    async def release(self, volume_id: str) -> None:
        """Of attachments without a server: the volume is ours, so nobody else has any."""
        volume = await self._session.read(lambda cloud: ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}"))
        if volume is None:
            return
        here = {one["attachment_id"] for one in volume["volume"]["attachments"] if one.get("device") == host_label()}
        left = await self._session.read(
            lambda cloud: ask(cloud, "block_storage", "GET", "/attachments/detail", params={"volume_id": volume_id})[
                "attachments"
            ]
        )
        for one in left:
            if one.get("instance"):
                raise Conflict(f"volume {volume_id} is attached to server {printable(one['instance'], 40)}: detach it")
        for one in left:
            if one["id"] in here and one.get("connection_info"):
                with contextlib.suppress(CoriolisError):  # another driver than is allowed now, or storage out of reach
                    await self._brick.disconnect(one["connection_info"], {})
            await remove(self._session, "block_storage", f"/attachments/{one['id']}")
        if left:
            await self._until_free(volume_id)

    async def _until_free(self, volume_id: str) -> None:
        def free(cloud: Cloud) -> bool | None:
            found = ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}")
            return True if found is None or found["volume"]["status"] in ("available", "error") else None

        await self._session.until(free, FREE_TIMEOUT_S, f"the detachment of volume {volume_id}")


class NovaAttacher:
    """For an agent that is itself a server of the project. ``devices``: where udev names disks by their serial."""

    def __init__(self, session: Session, server_id: str, devices: Path = DEVICES) -> None:
        self._session, self._server, self._devices = session, server_id, devices

    @asynccontextmanager
    async def attached(self, volume_id: str) -> AsyncIterator[Device]:
        await self.release(volume_id)
        path, body = f"/servers/{self._server}/os-volume_attachments", {"volumeAttachment": {"volumeId": volume_id}}
        try:
            await self._session.change(lambda cloud: ask(cloud, "compute", "POST", path, body))
            await self._until(volume_id, "in-use")
            yield Device(await self._device(volume_id), "raw", "nova")
        finally:
            await _to_the_end(self.release(volume_id))

    async def _device(self, volume_id: str) -> str:
        # QEMU's virtio-blk cuts a serial after 20 characters; its SCSI disks do or do not, by version and machine type
        buses = ("virtio-", "scsi-0QEMU_QEMU_HARDDISK_", "scsi-SQEMU_QEMU_HARDDISK_")
        names = [f"{bus}{serial}" for bus in buses for serial in (volume_id, volume_id[:20])]
        try:
            async with asyncio.timeout(DEVICE_TIMEOUT_S):
                while True:
                    for name in names:
                        if await asyncio.to_thread(os.path.exists, self._devices / name):
                            return str(self._devices / name)
                    await asyncio.sleep(DEVICE_POLL_S)
        except TimeoutError as error:
            raise TimedOut(f"volume {volume_id} was attached but no disk with its serial appeared here") from error

    async def release(self, volume_id: str) -> None:
        found = await self._session.read(lambda cloud: ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}"))
        if found is None:
            return
        holders = {one["server_id"] for one in found["volume"]["attachments"] if one.get("server_id")}
        for server in holders - {self._server}:
            if not await self._is_agent(server):
                raise Conflict(f"volume {volume_id} is attached to server {printable(server, 40)}: detach it")
        for server in holders:
            await remove(self._session, "compute", f"/servers/{server}/os-volume_attachments/{volume_id}")
        if holders:
            await self._until(volume_id, "available")

    async def _is_agent(self, server: str) -> bool:
        """Whether that server says of itself that it is an agent's (metadata ``coriolis_agent``)."""
        found = await self._session.read(lambda cloud: ask_or_none(cloud, "compute", f"/servers/{server}"))
        return found is not None and "coriolis_agent" in found["server"].get("metadata", {})

    async def _until(self, volume_id: str, status: str) -> None:
        def reached(cloud: Cloud) -> bool | None:
            found = ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}")
            if found is None:
                raise NotFound(f"volume {volume_id} is gone")
            return True if found["volume"]["status"] == status else None

        await self._session.until(reached, FREE_TIMEOUT_S, f"volume {volume_id} {status}")


def stated_format(connection: dict[str, Any]) -> str:
    """As Cinder states it, raw for block devices; the volume itself is never asked. Raises InvalidInput."""
    found = str(connection.get("format") or "raw")
    if found not in FORMATS:
        raise InvalidInput(f"the volume has the format {printable(found, 40)}; known: {', '.join(FORMATS)}")
    return found


async def _to_the_end(work: Any) -> None:
    """Detach even when the task is cancelled meanwhile; a failure is logged: the next opening repeats it."""
    begun = asyncio.ensure_future(work)
    try:
        await asyncio.shield(begun)
    except asyncio.CancelledError:
        with contextlib.suppress(CoriolisError):
            await begun
        raise
    except CoriolisError as error:
        log.warning("a volume stays attached for now", error=error.message)


@asynccontextmanager
async def open_device(device: Device) -> AsyncIterator[BlockWriter]:
    """A writer of all its bytes."""
    if device.format == "raw":
        async with raw_writer(device.path, inside=device.inside) as writer:
            yield writer
        return
    descriptor = await asyncio.to_thread(open_disk, device.path, os.O_RDWR, inside=device.inside)
    try:
        await asyncio.to_thread(check_image, descriptor, device.format, stated_size=None, max_size=1 << 50)
        export = Export(descriptor, device.format, writable=True)
        async with qemu_nbd(export) as socket_path, nbd_disk(socket_path, context=BASE_ALLOCATION) as disk:
            yield disk
    finally:
        os.close(descriptor)
