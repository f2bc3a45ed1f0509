"""Raw disks by descriptor: blocking calls on a file or block device, without any event loop."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

import msgspec

from coriolis.errors import Conflict, Corrupt, Unsupported
from coriolis.model.disk import Extent, ExtentKind
from coriolis.providers.block.os_errors import from_os_error

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


def check_unchanged(descriptor: int, path: str, expected: FileIdentity | None) -> None:
    """Raise Conflict when ``expected`` is given and the open file is not that any more."""
    if expected is not None and identity_of(descriptor) != expected:
        raise Conflict(f"{path} changed while it was read; nothing may write to it: make a new snapshot")
