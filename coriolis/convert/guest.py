"""What the conversion needs of a guest's mounted file systems; libguestfs implements it, and a directory in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coriolis.convert.text import decode, shown
from coriolis.errors import Unsupported

MAX_TEXT_BYTES = 2 << 20
MAX_MODULE_BYTES = 64 << 20
MAX_LISTING = 10_000


class Guest(Protocol):
    """Absolute guest paths; symlinks are followed inside the guest only. Raises Corrupt, Unsupported."""

    def is_file(self, path: str) -> bool:
        """A regular file: a pipe or a device is never opened."""
        ...

    def is_dir(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Sorted names, empty when there is no such directory. Raises Unsupported beyond 10,000."""
        ...

    def size(self, path: str) -> int: ...

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes; fewer only at the end of the file."""
        ...

    def write(self, path: str, data: bytes, mode: int | None = None) -> None:
        """Replace the file's content; its directory is made if absent.

        Owner and mode of an existing file stay unless ``mode`` is given; a new one gets ``mode``, else 0644.
        """
        ...

    def write_at(self, path: str, offset: int, data: bytes) -> None: ...

    def truncate(self, path: str, size: int) -> None: ...

    def copy(self, source: str, destination: str) -> None:
        """Copy a file; the destination's directory is made if absent."""
        ...

    def rename(self, source: str, destination: str) -> None: ...

    def remove(self, path: str) -> None:
        """Delete a file or a link; without effect when there is none."""
        ...

    def read_link(self, path: str) -> str | None:
        """Where a symbolic link leads, None when ``path`` is none."""
        ...

    def symlink(self, target: str, path: str) -> None:
        """Make a link, replacing what is there; its directory is made if absent."""
        ...

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        """What the guest's own program printed, run in the guest's tree inside the appliance, as its root.

        Raises Unavailable with its last words when it fails, TimedOut. Output is cut at 64 KiB.
        """
        ...

    def free_bytes(self, path: str) -> int:
        """Free space of the file system that holds ``path``."""
        ...

    def uuid_of(self, device: str) -> str | None:
        """UUID of what lies on a device the guest calls ``device``, whatever its bus; None when unknown."""
        ...

    def has_device(self, name: str) -> bool:
        """Whether exactly one of the guest's disks has what ``name`` means: a tag such as ``UUID=``, a path below
        ``/dev``.
        """
        ...


def read(guest: Guest, path: str, limit: int = MAX_TEXT_BYTES) -> bytes:
    """The whole file. Raises Unsupported when it is longer than ``limit`` bytes."""
    size = guest.size(path)
    if size > limit:
        raise Unsupported(f"{shown(path)} of the guest has {size} bytes, more than {limit}")
    return guest.read_at(path, 0, size)


def read_text(guest: Guest, path: str) -> str:
    """The file as text, empty when there is none. Raises Unsupported beyond 2 MiB."""
    return decode(read(guest, path)) if guest.is_file(path) else ""
