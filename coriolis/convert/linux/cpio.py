"""The cpio "newc" format as the Linux kernel unpacks it (init/initramfs.c)."""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from coriolis.errors import Corrupt

HEADER_BYTES = 110
MAGICS = (b"070701", b"070702")
TRAILER = "TRAILER!!!"
MAX_NAME_BYTES = 4096
MAX_MEMBERS = 200_000
_NUMBERS = re.compile(rb"[0-9A-Fa-f]{104}")
_FIRST_INODE = 0x7F000000  # far from those of any real initramfs: equal inodes would be taken for hard links
_FORBIDDEN_DIRECTORIES = frozenset({"", "lib", "usr", "usr/lib"})


@dataclass(frozen=True, slots=True)
class Header:
    """One member's header. ``data_offset`` and ``next_offset`` count from the header's own start."""

    mode: int
    size: int
    name_size: int

    @property
    def data_offset(self) -> int:
        return _aligned(HEADER_BYTES + self.name_size)

    @property
    def next_offset(self) -> int:
        return self.data_offset + _aligned(self.size)


def parse_header(raw: bytes) -> Header:
    """Decode the first 110 bytes of ``raw``. Raises Corrupt on anything that is no newc header."""
    if len(raw) < HEADER_BYTES or raw[:6] not in MAGICS:
        raise Corrupt("the initramfs holds something that is no cpio member")
    if _NUMBERS.fullmatch(raw, 6, HEADER_BYTES) is None:  # int() would take a sign: such a size leads backwards
        raise Corrupt("the initramfs holds a cpio header with a bad number")
    mode, size, name_size = (int(raw[at : at + 8], 16) for at in (14, 54, 94))
    if not 1 <= name_size <= MAX_NAME_BYTES:
        raise Corrupt(f"the initramfs holds a cpio name of {name_size} bytes, more than {MAX_NAME_BYTES}")
    return Header(mode, size, name_size)


class Writer:
    """Builds one archive in memory.

    A directory entry for ``lib`` or ``usr`` is never written: in a merged-usr initramfs ``/lib`` is a
    symlink, which the kernel would replace by an empty directory (``clean_path``) and so lose every program
    in it.
    """

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = _FIRST_INODE
        self._directories: set[str] = set()

    def add_file(self, name: str, data: bytes, permissions: int = 0o644) -> None:
        """Add a regular file and, before it, its directories; ``name`` has no leading slash."""
        self._add_directories(posixpath.dirname(name))
        self._entry(name, stat.S_IFREG | permissions, data, links=1)

    def replace_file(self, name: str, data: bytes, permissions: int = 0o644) -> None:
        """Put ``data`` in place of a file that the earlier archive has; its directories are there."""
        self._entry(name, stat.S_IFREG | permissions, data, links=1)

    def replace_by_link(self, name: str, target: str) -> None:
        """Put a symbolic link in place of a file that the earlier archive has."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode(), links=1)

    def finish(self) -> bytes:
        """The archive with its trailer, padded with zeroes to 512 bytes."""
        self._entry(TRAILER, 0, b"", links=1)
        self._out += bytes(-len(self._out) % 512)
        return bytes(self._out)

    def _add_directories(self, path: str) -> None:
        if path in _FORBIDDEN_DIRECTORIES or path in self._directories:
            return
        self._add_directories(posixpath.dirname(path))
        self._directories.add(path)
        self._entry(path, stat.S_IFDIR | 0o755, b"", links=2)

    def _entry(self, name: str, mode: int, data: bytes, links: int) -> None:
        self._inode += 1
        raw_name = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(raw_name), 0)
        header = "070701" + "".join(f"{field:08X}" for field in fields)
        for part in (header.encode() + raw_name, data):
            self._out += part
            self._out += bytes(-len(self._out) % 4)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    mode: int
    data: memoryview

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


def members(archive: bytes) -> Iterator[Member]:
    """All members before the trailer, in order. Raises Corrupt when the archive is cut off or too long."""
    for member, _ in walk(memoryview(archive)):
        if member is not None:
            yield member


def walk(view: memoryview) -> Iterator[tuple[Member | None, int]]:
    """(member, offset behind it) of the archive that ``view`` begins with; None for the trailer, which is last.

    Raises Corrupt when the archive is cut off or too long.
    """
    at = 0
    for _ in range(MAX_MEMBERS):
        header = parse_header(bytes(view[at : at + HEADER_BYTES]))
        if at + header.data_offset + header.size > len(view):
            raise Corrupt("the initramfs archive is cut off inside a member")
        raw_name = bytes(view[at + HEADER_BYTES : at + HEADER_BYTES + header.name_size - 1])
        name = raw_name.decode("utf-8", "replace")
        start = at + header.data_offset
        at += header.next_offset
        if name == TRAILER:
            yield None, min(at, len(view))
            return
        yield Member(name, header.mode, view[start : start + header.size]), at
    raise Corrupt(f"the initramfs archive has more than {MAX_MEMBERS} members")


def _aligned(size: int) -> int:
    return (size + 3) // 4 * 4
