"""Raw disks: a file or block device read and written by us alone, never probed by any tool."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from coriolis.errors import Conflict, Corrupt, Unsupported
from coriolis.model.disk import Extent, ExtentKind
from coriolis.providers.base import RawDescriptor
from coriolis.providers.block.calls import Calls
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.ranges import OverlapOrder, check_range, check_start, check_transfer, gapless

BLOCK_SIZE = 4096
EXTENTS_PER_CALL = 4096
ZERO_WRITE_BYTES = 1024 * 1024
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE, _FALLOC_FL_ZERO_RANGE = 0x01, 0x02, 0x10
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class FileIdentity(msgspec.Struct, frozen=True):
    """Changes whenever the content of a file might: device, inode, size and the two change times in ns."""

    device: int
    inode: int
    size: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.device:x}-{self.inode:x}-{self.size:x}-{self.modified_ns:x}"


def identity_from_text(text: str) -> FileIdentity:
    """The inverse of ``str(identity)``."""
    device, inode, size, modified = (int(part, 16) for part in text.split("-"))
    return FileIdentity(device, inode, size, modified)


def identity_of(descriptor: int) -> FileIdentity:
    """Identity of the open file now."""
    found = os.fstat(descriptor)
    return FileIdentity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def open_disk(path: str, flags: int = os.O_RDONLY, *, inside: str = "") -> int:
    """Descriptor of a regular file or block device. Raises NotFound, Denied, Unsupported for anything else.

    With ``inside``, ``path`` is below that directory and no component below it may be a symbolic link.
    """
    # O_NONBLOCK: opening a FIFO that somebody put there must not hang us.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = _open_inside(path, flags, inside) if inside else os.open(path, flags)
    except OSError as error:
        raise from_os_error(error, f"open {path}") from error
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise Unsupported(f"{path} is neither a file nor a block device")
    return descriptor


def _open_inside(path: str, flags: int, root: str) -> int:
    *folders, name = os.path.relpath(path, root).split(os.sep)
    if ".." in (*folders, name):
        raise Unsupported(f"{path} is not inside {root}")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


def size_of(descriptor: int) -> int:
    """Bytes of a file or block device."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    """False when the file system cannot do it; other failures raise OSError."""
    if _libc.fallocate(descriptor, mode | _FALLOC_FL_KEEP_SIZE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number))


def read_exact(descriptor: int, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes. A file that became shorter raises Corrupt."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    missing = length - len(data)
    while missing and parts[-1]:
        parts.append(os.pread(descriptor, missing, offset + length - missing))
        missing -= len(parts[-1])
    if missing:
        raise Corrupt(f"the disk ended {missing} bytes early at {offset + length - missing}: was it cut?")
    return b"".join(parts)


def write_exact(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of ``data``; OSError passes."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset, view = offset + written, view[written:]


def zero_range(descriptor: int, offset: int, length: int) -> None:
    """Make the range read as zero: punch a hole, else zero the allocation, else write zeroes."""
    if length == 0:
        return
    if _fallocate(descriptor, _FALLOC_FL_PUNCH_HOLE, offset, length):
        return
    if _fallocate(descriptor, _FALLOC_FL_ZERO_RANGE, offset, length):
        return
    zeroes = memoryview(bytes(ZERO_WRITE_BYTES))
    for position in range(offset, offset + length, ZERO_WRITE_BYTES):
        write_exact(descriptor, position, zeroes[: min(ZERO_WRITE_BYTES, offset + length - position)])


def _seek(descriptor: int, offset: int, whence: int, size: int) -> int:
    try:
        return min(os.lseek(descriptor, offset, whence), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size  # no data after ``offset``
        if error.errno in _UNSUPPORTED:
            return offset if whence == os.SEEK_DATA else size
        raise


def data_ranges(descriptor: int, start: int, size: int, limit: int = EXTENTS_PER_CALL) -> list[Extent]:
    """Up to ``limit`` allocated ranges from ``start`` on; fewer means that the end was reached."""
    found: list[Extent] = []
    position = start
    while position < size and len(found) < limit:
        first = _seek(descriptor, position, os.SEEK_DATA, size)
        if first >= size:
            break
        position = _seek(descriptor, first, os.SEEK_HOLE, size)
        found.append(Extent(first, max(position, first + 1) - first, ExtentKind.DATA))
    return found


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


def check_unchanged(descriptor: int, path: str, expected: FileIdentity | None) -> None:
    """Raise Conflict when ``expected`` is given and the open file is not that any more."""
    if expected is not None and identity_of(descriptor) != expected:
        raise Conflict(f"{path} changed while it was read; nothing may write to it: make a new snapshot")


class RawWriter(RawReader):
    """Writes a raw disk of fixed size. Overlapping writes land in call order; flush is fdatasync."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, path)
        self._order = OverlapOrder()

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        length = memoryview(data).nbytes
        check_transfer(offset, length, self._size)
        async with self._order.turn(offset, length):
            await self._calls.run(self._guarded, "write", write_exact, self._descriptor, offset, data)

    async def write_zeroes(self, offset: int, length: int) -> None:
        check_range(offset, length, self._size)
        async with self._order.turn(offset, length):
            await self._calls.run(self._guarded, "zero", zero_range, self._descriptor, offset, length)

    async def flush(self) -> None:
        async with self._order.turn(0, self._size):
            await self._calls.run(self._guarded, "flush", os.fdatasync, self._descriptor)

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
async def raw_writer(path: str) -> AsyncIterator[RawWriter]:
    """Open ``path``, which must have its full size already, for writing. Leaving does not flush."""
    writer = RawWriter(open_disk(path, os.O_RDWR), path)
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
