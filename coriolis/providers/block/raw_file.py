"""Raw disks: a file or block device read and written by us alone, never probed by any tool."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from coriolis.model.disk import Extent
from coriolis.providers.base import RawDescriptor
from coriolis.providers.block.calls import Calls
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.ranges import OverlapOrder, check_range, check_start, check_transfer, gapless
from coriolis.providers.block.raw_io import (
    EXTENTS_PER_CALL,
    FileIdentity,
    check_unchanged,
    data_ranges,
    open_disk,
    read_exact,
    size_of,
    write_exact,
    zero_range,
)

BLOCK_SIZE = 4096


class RawReader:
    """Reads a raw disk. With ``expected`` set, a file that changed since raises Conflict."""

    def __init__(self, descriptor: int, path: str, expected: FileIdentity | None = None) -> None:
        self._descriptor, self._path, self._expected = descriptor, path, expected
        self._size = size_of(descriptor)
        self._calls = Calls()

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    async def read_at(self, offset: int, length: int) -> bytes:
        check_transfer(offset, length, self._size)
        return await self._calls.run(self._read, offset, length)

    def descriptor(self) -> RawDescriptor:
        """The open file, for blocking access; it stays this object's."""
        return RawDescriptor(self._descriptor, self._path, str(self._expected) if self._expected else "")

    def _read(self, offset: int, length: int) -> bytes:
        try:
            data = read_exact(self._descriptor, offset, length)
        except OSError as error:
            raise from_os_error(error, f"read {self._path}", self._descriptor) from error
        self.check_unchanged()
        return data

    def check_unchanged(self) -> None:
        """Raise Conflict when the file is not what the snapshot saw."""
        check_unchanged(self._descriptor, self._path, self._expected)

    async def extents(self, starting_offset: int) -> AsyncIterator[Extent]:
        """All ranges from ``starting_offset``: increasing, disjoint, without gaps."""
        check_start(starting_offset, self._size)
        position = starting_offset
        while position < self._size:
            found = await self._calls.run(self._some_extents, position)
            end = found[-1].end if len(found) == EXTENTS_PER_CALL else self._size
            for extent in gapless(found, position, end):
                yield extent
            position = end
        self.check_unchanged()

    def _some_extents(self, position: int) -> list[Extent]:
        try:
            return data_ranges(self._descriptor, position, self._size)
        except OSError as error:
            raise from_os_error(error, f"map {self._path}") from error

    async def close(self) -> None:
        await self._calls.close(lambda: os.close(self._descriptor))


class RawWriter(RawReader):
    """Writes a raw disk of fixed size. Overlapping writes land in call order; flush is fdatasync."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, path)
        self._order = OverlapOrder()

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        length = memoryview(data).nbytes
        check_transfer(offset, length, self._size)
        await self._ordered(offset, length, "write", write_exact, self._descriptor, offset, data)

    async def write_zeroes(self, offset: int, length: int) -> None:
        check_range(offset, length, self._size)
        await self._ordered(offset, length, "zero", zero_range, self._descriptor, offset, length)

    async def flush(self) -> None:
        await self._ordered(0, self._size, "flush", os.fdatasync, self._descriptor)

    async def _ordered(self, offset: int, length: int, verb: str, call: Callable[..., None], *args: object) -> None:
        await self._order.run(offset, length, lambda: self._calls.run(self._guarded, verb, call, *args))

    def _guarded(self, verb: str, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except OSError as error:
            raise from_os_error(error, f"{verb} {self._path}", self._descriptor) from error


@asynccontextmanager
async def raw_reader(path: str, expected: FileIdentity | None = None, *, inside: str = "") -> AsyncIterator[RawReader]:
    """Open ``path`` for reading."""
    reader = RawReader(open_disk(path, inside=inside), path, expected)
    try:
        reader.check_unchanged()
        yield reader
    finally:
        await reader.close()


@asynccontextmanager
async def raw_writer(path: str, *, inside: str = "") -> AsyncIterator[RawWriter]:
    """Open ``path``, which must have its full size already, for writing. Leaving does not flush."""
    writer = RawWriter(open_disk(path, os.O_RDWR, inside=inside), path)
    try:
        yield writer
    finally:
        await writer.close()


def sparse_file(path: str, size: int) -> None:
    """Create ``path`` with ``size`` bytes that read as zero; Conflict when it exists."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise from_os_error(error, f"create {path}", os.path.dirname(path)) from error
