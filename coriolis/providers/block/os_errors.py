"""Turns errors of the operating system into ours, with the sizes an operator needs."""

from __future__ import annotations

import errno
import os

from coriolis.errors import Conflict, CoriolisError, Denied, NotFound, QuotaExceeded, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
_CLASH = {errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY, errno.ETXTBSY, errno.ELOOP}


def free_bytes(path: str | int) -> int:
    """Bytes an unprivileged writer may still allocate on the file system of ``path`` (a path or descriptor)."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def from_os_error(error: OSError, what: str, where: str | int | None = None) -> CoriolisError:
    """The error to raise (``raise ... from error``). ``what`` names the operation and the file."""
    number = error.errno or 0
    reason = error.strerror or str(error)
    if number in _FULL:
        left = _left(where)
        return QuotaExceeded(f"{what}: {reason}; {left} left: free space there or choose another storage")
    if number in _DENIED:
        return Denied(f"{what}: {reason}; give the agent's user access to it")
    if number in _ABSENT:
        return NotFound(f"{what}: {reason}")
    if number in _CLASH:
        return Conflict(f"{what}: {reason}")
    return Unavailable(f"{what}: {reason}")


def _left(where: str | int | None) -> str:
    if where is None:
        return "an unknown amount"
    try:
        return f"{free_bytes(where)} bytes"
    except OSError:
        return "an unknown amount"
