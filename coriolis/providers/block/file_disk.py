"""A disk that nobody writes, read straight from its file: raw by us, any other format through a confined qemu-nbd."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from coriolis.errors import Corrupt, Unsupported
from coriolis.model.disk import Extent
from coriolis.providers.base import BlockReader
from coriolis.providers.block.nbd_client import BASE_ALLOCATION, NbdDisk, allocation, dirty, nbd_disk
from coriolis.providers.block.qemu_nbd import Export, qemu_nbd
from coriolis.providers.block.raw_file import raw_reader
from coriolis.providers.block.raw_io import FileIdentity, check_unchanged, identity_of, open_disk, size_of
from coriolis.providers.image_check import DEFAULT_MAX_SIZE_BYTES, check_image, format_name


class FileDisk(msgspec.Struct, frozen=True):
    """Where a disk is and what is stated of it.

    ``inside`` names a directory that the file must not leave, not even through a symbolic link. ``offset`` and
    ``length`` select a member of an archive. ``stated_size`` is the virtual size somebody stated, or None.
    """

    path: str
    format: str
    inside: str = ""
    offset: int = 0
    length: int = 0
    stated_size: int | None = None
    max_size: int = DEFAULT_MAX_SIZE_BYTES


class Examined(msgspec.Struct, frozen=True):
    """A disk that passed the checks: virtual size in bytes, and what its file was at that moment."""

    size_bytes: int
    identity: FileIdentity


def open_file(disk: FileDisk) -> int:
    """Descriptor for reading."""
    return open_disk(disk.path, os.O_RDONLY, inside=disk.inside)


def examine(disk: FileDisk) -> Examined:
    """Check the file without starting any process. Raises HostileImage, Unsupported, NotFound, Denied, Corrupt."""
    descriptor = open_file(disk)
    try:
        return examine_open(disk, descriptor)
    finally:
        os.close(descriptor)


def examine_open(disk: FileDisk, descriptor: int) -> Examined:
    """As ``examine`` for an open file."""
    identity = identity_of(descriptor)
    if format_name(disk.format) != "raw":
        facts = check_image(
            descriptor,
            disk.format,
            stated_size=disk.stated_size,
            max_size=disk.max_size,
            offset=disk.offset,
            length=disk.length,
        )
        return Examined(facts.virtual_size, identity)
    if disk.offset or disk.length:
        raise Unsupported(f"{disk.path}: raw disks inside archives are not supported; unpack them")
    size = size_of(descriptor)
    if disk.stated_size is not None and disk.stated_size != size:
        raise Corrupt(f"{disk.path} holds {size} bytes but {disk.stated_size} were stated for it")
    return Examined(size, identity)


class CheckedReader:
    """An NBD disk over a file; every read ends with proof that the file is still the one that was checked."""

    def __init__(self, disk: NbdDisk, descriptor: int, path: str, expected: FileIdentity) -> None:
        self._disk, self._descriptor, self._path, self._expected = disk, descriptor, path, expected

    @property
    def size(self) -> int:
        return self._disk.size

    @property
    def block_size(self) -> int:
        return self._disk.block_size

    async def read_at(self, offset: int, length: int) -> bytes:
        data = await self._disk.read_at(offset, length)
        check_unchanged(self._descriptor, self._path, self._expected)
        return data


@asynccontextmanager
async def _served(
    disk: FileDisk, expected: FileIdentity | None, context: str, bitmap: str = ""
) -> AsyncIterator[tuple[NbdDisk, CheckedReader]]:
    """Check, serve and connect a disk that is not raw."""
    descriptor = open_file(disk)
    try:
        examined = examine_open(disk, descriptor)
        check_unchanged(descriptor, disk.path, expected)
        export = Export(descriptor, format_name(disk.format), disk.offset, disk.length, bitmap)
        async with qemu_nbd(export) as socket_path, nbd_disk(socket_path, context=context) as served:
            if served.size != examined.size_bytes:
                raise Corrupt(f"{disk.path}: qemu sees {served.size} bytes, its header says {examined.size_bytes}")
            yield served, CheckedReader(served, descriptor, disk.path, examined.identity)
            check_unchanged(descriptor, disk.path, examined.identity)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def file_reader(disk: FileDisk, expected: FileIdentity | None = None) -> AsyncIterator[BlockReader]:
    """Reader of the disk. With ``expected``, a file that changed since raises Conflict."""
    if format_name(disk.format) == "raw":
        async with raw_reader(disk.path, expected, inside=disk.inside) as reader:
            yield reader
        return
    async with _served(disk, expected, "") as (_, checked):
        yield checked


async def file_extents(
    disk: FileDisk, starting_offset: int, expected: FileIdentity | None = None
) -> AsyncIterator[Extent]:
    """Allocated ranges: increasing, disjoint, without gaps."""
    if format_name(disk.format) == "raw":
        async with raw_reader(disk.path, expected, inside=disk.inside) as reader:
            async for extent in reader.extents(starting_offset):
                yield extent
        return
    async with _served(disk, expected, BASE_ALLOCATION) as (served, _):
        async for extent in allocation(served, starting_offset):
            yield extent


async def file_changes(
    disk: FileDisk, bitmap: str, starting_offset: int, expected: FileIdentity | None = None
) -> AsyncIterator[Extent]:
    """Ranges that a persistent qcow2 bitmap marks. Raises ChangeLogLost when qemu does not serve it."""
    async with _served(disk, expected, f"qemu:dirty-bitmap:{bitmap}", bitmap) as (served, _):
        async for extent in dirty(served, starting_offset):
            yield extent
