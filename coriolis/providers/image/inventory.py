"""Instances of an image directory: ``<name>.toml`` descriptions and ``<name>.ova`` packages."""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

from coriolis.errors import Conflict, CoriolisError, NotFound
from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration, Network, StorageType
from coriolis.providers.base import Named, Page
from coriolis.providers.block.file_disk import FileDisk, examine
from coriolis.providers.block.os_errors import free_bytes, from_os_error
from coriolis.providers.block.raw_io import open_disk
from coriolis.providers.block.sidecar import read_bounded
from coriolis.providers.image import description as text
from coriolis.providers.image import ova, ovf
from coriolis.providers.image_check import DEFAULT_MAX_SIZE_BYTES

MAX_FILES = 100_000
_SUFFIXES = (".toml", ".ova")
_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """An instance and the files its disks are in, in order."""

    instance_id: str
    description: text.Description
    disks: tuple[FileDisk, ...]


def instance_files(directory: str) -> dict[str, list[str]]:
    """File names of instances, by instance id (the name without its suffix)."""
    try:
        names = sorted(os.listdir(directory))[:MAX_FILES]
    except OSError as error:
        raise from_os_error(error, f"list {directory}") from error
    found: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix in _SUFFIXES and not name.startswith("."):
            found.setdefault(stem, []).append(name)
    return found


def load_entry(directory: str, instance: str) -> Entry:
    """The instance of that id or file name. Raises NotFound, Conflict when two files claim it, InvalidInput."""
    files = instance_files(directory)
    name = os.path.basename(instance)
    for stem, candidates in files.items():
        if name == stem or name in candidates:
            chosen = [name] if name in candidates else candidates
            if len(chosen) > 1:
                raise Conflict(f"instance {name!r} is ambiguous: {', '.join(chosen)}; give the file name")
            path = os.path.join(directory, chosen[0])
            load = _from_ova if path.endswith(".ova") else _from_toml
            return load(directory, path, chosen[0] if len(candidates) > 1 else stem)
    raise NotFound(f"no instance {instance[:100]!r} in {directory}: it needs a {name[:100]}.toml or .ova file")


def _from_toml(directory: str, path: str, instance_id: str) -> Entry:
    data = read_bounded(path, text.MAX_DESCRIPTION_BYTES)
    if data is None:
        raise NotFound(f"{path} is gone")
    described = text.parse(data, path)
    disks = tuple(
        FileDisk(os.path.join(directory, d.file), d.format, inside=directory, stated_size=d.size_bytes)
        for d in described.disks
    )
    return Entry(instance_id, described, disks)


def _from_ova(directory: str, path: str, instance_id: str) -> Entry:
    descriptor = open_disk(path, inside=directory)
    try:
        members = ova.index(descriptor)
        found = ovf.parse_ovf(ova.descriptor_text(descriptor, members))
    finally:
        os.close(descriptor)
    disks = []
    for disk in found.disks:
        member = ova.find_member(members, disk.file)
        disks.append(FileDisk(path, disk.format, directory, member.offset, member.length, disk.size_bytes))
    described = text.Description(
        name=found.name or instance_id,
        num_cpu=found.num_cpu,
        memory_mb=found.memory_mb,
        os_type=found.os_type,
        firmware_type=found.firmware_type,
        disks=tuple(text.DiskEntry(disk.file, disk.format, disk.size_bytes) for disk in found.disks),
        nics=tuple(text.NicEntry(nic.network_name, nic.mac_address) for nic in found.nics),
    )
    return Entry(instance_id, described, tuple(disks))


class ImageInventory:
    """Meets ``Inventory``. Networks are the names that descriptions use."""

    def __init__(self, directory: str, max_size: int = DEFAULT_MAX_SIZE_BYTES) -> None:
        self._directory, self._max_size = directory, max_size

    async def list_instances(self, page: Page) -> list[MachineSpec]:
        """Instances that cannot be read are left out with a warning; ``get_instance`` says why."""
        return await asyncio.to_thread(self._list, page)

    def _list(self, page: Page) -> list[MachineSpec]:
        found: list[MachineSpec] = []
        for instance_id in sorted(instance_files(self._directory)):
            if len(found) >= page.limit:
                break
            if instance_id <= page.marker:
                continue
            try:
                found.append(self._spec(instance_id))
            except CoriolisError as error:
                _log.warning("instance %r is left out of the listing: %s", instance_id, error)
        return found

    async def get_instance(self, instance: str) -> MachineSpec:
        return await asyncio.to_thread(self._spec, instance)

    def _spec(self, instance: str) -> MachineSpec:
        entry = load_entry(self._directory, instance)
        limited = (msgspec.structs.replace(disk, max_size=self._max_size) for disk in entry.disks)
        sizes = tuple(examine(disk).size_bytes for disk in limited)
        return text.to_spec(entry.description, entry.instance_id, sizes)

    async def list_networks(self) -> list[Named]:
        specs = await self.list_instances(Page())
        names = sorted({nic.network_name for spec in specs for nic in spec.devices.nics})
        return [Named(name, name) for name in names]

    async def list_storage(self) -> list[Named]:
        return [Named("default", self._directory)]

    async def configuration(self) -> CloudConfiguration:
        """The names that descriptions use, and the folder."""
        networks, folder = await self.list_networks(), await asyncio.to_thread(_folder, self._directory)
        return CloudConfiguration(tuple(Network(one.name, one.id) for one in networks), (), (folder,))

    async def list_flavors(self) -> list[Named]:
        return []


def _folder(directory: str) -> StorageType:
    try:
        stats = os.statvfs(directory)
        free = free_bytes(directory)
    except OSError as error:
        raise from_os_error(error, f"measure {directory}") from error
    capacity = stats.f_blocks * stats.f_frsize
    return StorageType("default", directory, kind="folder", capacity_bytes=capacity, free_bytes=free)
