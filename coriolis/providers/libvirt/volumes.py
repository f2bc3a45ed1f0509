"""Meets ``VolumeTarget`` over directory-type storage pools; records beside the volumes say whose they are."""

from __future__ import annotations

import asyncio
import os
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import libvirt
import msgspec

from coriolis.errors import Conflict, Corrupt, InvalidInput, NotFound, Unsupported
from coriolis.model.resource import ResourceKind, TaggedResource, Volume, VolumeRequest
from coriolis.providers.base import BlockWriter
from coriolis.providers.block import sidecar
from coriolis.providers.block.nbd_client import BASE_ALLOCATION, nbd_disk
from coriolis.providers.block.qemu_nbd import Export, qemu_nbd
from coriolis.providers.block.raw_file import raw_writer
from coriolis.providers.block.raw_io import open_disk
from coriolis.providers.block.staged import check_size, check_space
from coriolis.providers.image_check import check_image
from coriolis.providers.libvirt.inventory import DIRECTORY_POOLS, pool_details
from coriolis.providers.libvirt.session import Session

FORMATS = ("raw", "qcow2")
QCOW2_UNIT_BYTES = 1024
"""libvirt hands capacities to qemu-img in KiB, rounded up; a replica must have the exact size."""


class PoolVolume(msgspec.Struct, frozen=True):
    """A volume of ours: its pool, its path and what was stated when it was made."""

    pool: str
    path: str
    record: sidecar.VolumeRecord


def volume_xml(name: str, size: int, volume_format: str) -> str:
    """A sparse volume of ``size`` bytes."""
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "capacity", unit="bytes").text = str(size)
    ET.SubElement(root, "allocation", unit="bytes").text = "0"
    target = ET.SubElement(root, "target")
    ET.SubElement(target, "format", type=volume_format)
    if volume_format == "qcow2":
        ET.SubElement(target, "compat").text = "1.1"
    return ET.tostring(root, encoding="unicode")


def split_id(volume_id: str) -> tuple[str, str]:
    """(pool, volume name) of ``pool/name``."""
    pool, separator, name = volume_id.rpartition("/")
    if not separator or not pool:
        raise InvalidInput(f"volume id {volume_id[:100]!r} is not of the form pool/name")
    return pool, sidecar.check_name(name, "volume name")


def open_pool(connection: Any, name: str) -> tuple[Any, str]:
    """(pool, path) of an active directory pool. Raises NotFound, Conflict, Unsupported."""
    pool = connection.storagePoolLookupByName(name)
    kind, path = pool_details(pool)
    if kind not in DIRECTORY_POOLS or not path:
        raise Unsupported(f"storage pool {name} is of type {kind!r}; a directory pool is needed")
    if not pool.isActive():
        raise Conflict(f"storage pool {name} is not active: virsh pool-start {name}")
    if not os.path.isdir(path):
        raise Unsupported(f"storage pool {name} at {path} is not on this agent's host: run the agent on that host")
    return pool, path


def find_volume(pool: Any, name: str) -> Any:
    """The libvirt volume, or None."""
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


class LibvirtVolumes:
    """Volume ids are ``pool/name``. The format is what we stated at creation, never what a pool refresh guesses:
    libvirt probes raw volumes, and a guest decides what such a probe sees."""

    def __init__(self, session: Session, default_pool: str, max_size: int) -> None:
        self._session, self._default_pool, self._max_size = session, default_pool, max_size

    async def create_volume(self, request: VolumeRequest) -> Volume:
        return await self._session.run(lambda c: self._create(c, request))

    def _create(self, connection: Any, request: VolumeRequest) -> Volume:
        environment = request.environment
        pool_name = request.storage or environment.get("storage_pool", "") or self._default_pool
        volume_format = environment.get("volume_format", "raw")
        if volume_format not in FORMATS:
            raise InvalidInput(f"volume_format {volume_format!r} must be one of {', '.join(FORMATS)}")
        check_size(request.size_bytes, self._max_size)
        if volume_format == "qcow2" and (request.size_bytes == 0 or request.size_bytes % QCOW2_UNIT_BYTES):
            raise InvalidInput(f"a qcow2 volume cannot have {request.size_bytes} bytes: use volume_format raw")
        name = sidecar.check_name(request.name, "volume name")
        pool, path = open_pool(connection, pool_name)
        wanted = sidecar.VolumeRecord(name, request.size_bytes, volume_format, request.tag.job_id, request.tag.role)
        existing = sidecar.load(path, name)
        if existing is not None:
            sidecar.check_same(existing, wanted)
        file = os.path.join(path, name)
        if existing is None and (os.path.lexists(file) or find_volume(pool, name) is not None):
            raise Conflict(f"volume {name} exists in pool {pool_name} but is not ours: remove it")
        if not _is_whole(file, wanted):
            check_space(path, request.size_bytes, bool(environment.get("allow_overcommit", False)))
            sidecar.store(path, wanted)
            _remove(pool, name)
            file = pool.createXML(volume_xml(name, request.size_bytes, volume_format), 0).path()
        attributes = {"path": file, "format": volume_format, "pool": pool_name}
        return Volume(f"{pool_name}/{name}", name, request.size_bytes, True, attributes)

    async def delete_volume(self, volume_id: str) -> None:
        pool_name, name = split_id(volume_id)

        def delete(connection: Any) -> None:
            try:
                pool, path = open_pool(connection, pool_name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
                    return
                raise
            if sidecar.load(path, name) is not None:
                _remove(pool, name)
                sidecar.remove(path, name)

        await self._session.run(delete)

    async def require(self, volume_id: str) -> PoolVolume:
        """A volume of ours that exists. Raises NotFound."""
        pool_name, name = split_id(volume_id)

        def look_up(connection: Any) -> PoolVolume:
            _, path = open_pool(connection, pool_name)
            record, file = sidecar.load(path, name), os.path.join(path, name)
            if record is None or not os.path.exists(file):
                raise NotFound(f"there is no volume {name} of ours in pool {pool_name}")
            return PoolVolume(pool_name, file, record)

        return await self._session.run(look_up)

    @asynccontextmanager
    async def open_writer(self, volume_id: str) -> AsyncIterator[BlockWriter]:
        volume = await self.require(volume_id)
        if volume.record.format == "raw":
            async with raw_writer(volume.path) as writer:
                yield writer
            return
        descriptor = open_disk(volume.path, os.O_RDWR)
        try:
            await asyncio.to_thread(_check_own, descriptor, volume.record)
            export = Export(descriptor, volume.record.format, writable=True)
            async with qemu_nbd(export) as socket_path, nbd_disk(socket_path, context=BASE_ALLOCATION) as disk:
                if disk.size != volume.record.size_bytes:
                    raise Corrupt(f"{volume.path} is served with {disk.size} bytes, not {volume.record.size_bytes}")
                yield disk
        finally:
            os.close(descriptor)

    async def find(self, job_id: str) -> list[TaggedResource]:
        """Volumes of the job in all active directory pools."""

        def search(connection: Any) -> list[TaggedResource]:
            found = []
            for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
                kind, path = pool_details(pool)
                for record in sidecar.all_records(path) if kind in DIRECTORY_POOLS and path else ():
                    if record.job_id == job_id:
                        volume_id = f"{pool.name()}/{record.name}"
                        found.append(TaggedResource(ResourceKind.VOLUME, volume_id, record.name, record.tag))
            return found

        return await self._session.run(search)


def _check_own(descriptor: int, record: sidecar.VolumeRecord) -> None:
    check_image(descriptor, record.format, stated_size=record.size_bytes, max_size=max(1, record.size_bytes))


def _is_whole(file: str, record: sidecar.VolumeRecord) -> bool:
    """Whether an earlier create finished; one that was cut short is made anew."""
    if not os.path.exists(file):
        return False
    if record.format == "raw":
        return os.stat(file).st_size == record.size_bytes
    descriptor = open_disk(file)
    try:
        _check_own(descriptor, record)
    except Corrupt:
        return False
    finally:
        os.close(descriptor)
    return True


def _remove(pool: Any, name: str) -> None:
    volume = find_volume(pool, name)
    if volume is None:
        pool.refresh(0)  # libvirtd may have restarted between our create and now
        volume = find_volume(pool, name)
    if volume is not None:
        volume.delete(0)
