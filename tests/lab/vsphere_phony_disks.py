"""A simulated disk that really freezes: its flat file, a delta for each snapshot over it, and what was written when.

All of it is ours (vcsim keeps bytes, but no deltas and no change tracking). The files are those of a real datastore:
``disk1.vmdk`` and ``disk1-flat.vmdk``, then ``disk1-000001.vmdk`` and ``disk1-000001-delta.vmdk``; a delta holds its
bytes at their places, sparse. Not thread-safe: the owner locks.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

BLOCK = 65536
"""Change tracking and allocation are told in these."""
_COPY = 1 << 20


class Ranges:
    """Ordered, apart and merged."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of the parts between two offsets."""
        for at in range(bisect_right(self._ends, start), len(self._starts)):
            if self._starts[at] >= end:
                return
            yield max(start, self._starts[at]), min(end, self._ends[at])


class Delta:
    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.written = path, name, Ranges()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, offset: int, data: bytes) -> None:
        _write(self._file, offset, data)
        self.written.add(offset, offset + len(data))

    def overlay(self, offset: int, piece: bytearray) -> None:
        for start, end in self.written.within(offset, offset + len(piece)):
            piece[start - offset : end - offset] = os.pread(self._file, end - start, start)

    def parts(self, size: int) -> Iterator[tuple[int, bytes]]:
        for start, end in self.written.within(0, size):
            for at in range(start, end, _COPY):
                yield at, os.pread(self._file, min(_COPY, end - at), at)

    def remove(self) -> None:
        os.close(self._file)
        self.path.unlink(missing_ok=True)


class PhonyDisk:
    """``key``: of the device. ``name``: ``[datastore] folder/disk1.vmdk``. ``descriptor``: that file.

    Views are told by depth: how many deltas lie over the flat file, of oldest first.
    """

    def __init__(self, key: int, name: str, descriptor: Path, size: int) -> None:
        self.key, self.name, self.descriptor, self.size = key, name, descriptor, size
        self.flat = descriptor.with_name(f"{descriptor.stem}-flat.vmdk")
        self.deltas: list[Delta] = []
        self.epoch = ""
        """The part of its change ids that a reset changes; empty when changes are not tracked."""
        self.moment = 0
        self.written = 0
        """How often the guest wrote."""
        self._log: list[tuple[int, int, int]] = []
        self._number = 0
        if not self.flat.exists() or self.flat.stat().st_size < size:
            self.flat.touch()
            os.truncate(self.flat, size)

    def file(self, depth: int) -> str:
        """``disk1.vmdk``: the descriptor's name of a view."""
        return self.names(depth)[0].rpartition("/")[2]

    def names(self, depth: int) -> list[str]:
        """Descriptors of a view's chain, from its top to the base."""
        return [*(delta.name for delta in reversed(self.deltas[:depth])), self.name]

    # bytes

    def write(self, offset: int, data: bytes) -> None:
        """As the guest does."""
        if not data or offset < 0 or offset + len(data) > self.size:
            raise ValueError(f"a guest cannot write {len(data)} bytes at {offset} of a disk of {self.size}")
        if self.deltas:
            self.deltas[-1].write(offset, data)
        else:
            _write_path(self.flat, offset, data)
        self.written += 1
        if self.epoch:
            self._log.append((self.moment, offset, offset + len(data)))

    def read(self, depth: int, offset: int, length: int) -> bytes:
        with self.flat.open("rb") as flat:
            flat.seek(offset)
            piece = bytearray(flat.read(length))
        piece.extend(bytes(length - len(piece)))
        for delta in self.deltas[:depth]:
            delta.overlay(offset, piece)
        return bytes(piece)

    def freeze(self) -> None:
        """A snapshot: what is there now stays, later writes go to a new delta."""
        self._number += 1
        stem = f"{self.descriptor.stem}-{self._number:06}"
        name = f"{self.name.removesuffix('.vmdk')}-{self._number:06}.vmdk"
        below = self.file(len(self.deltas))
        self.descriptor.with_name(f"{stem}.vmdk").write_text(
            f'# Disk DescriptorFile\nversion=1\ncreateType="vmfsSparse"\nparentFileNameHint="{below}"\n'
            f'RW {self.size // 512} VMFSSPARSE "{stem}-delta.vmdk"\n'
        )
        self.deltas.append(Delta(self.descriptor.with_name(f"{stem}-delta.vmdk"), name))
        self.moment += 1

    def merge(self, depth: int) -> None:
        """Removes the snapshot whose view had this depth: the delta over it goes into what lies below."""
        delta = self.deltas.pop(depth)
        for offset, data in delta.parts(self.size):
            if depth:
                self.deltas[depth - 1].write(offset, data)
            else:
                _write_path(self.flat, offset, data)
        delta.remove()
        self.descriptor.with_name(delta.name.rpartition("/")[2]).unlink(missing_ok=True)

    def grow(self, size: int) -> None:
        if self.deltas or size < self.size:
            raise ValueError("a disk grows, and only while no snapshot stands")
        os.truncate(self.flat, size)
        self.size = size

    def forget(self) -> None:
        """The machine is gone."""
        while self.deltas:
            self.deltas.pop().remove()

    # tracking

    def track(self) -> None:
        """Begin, or begin anew with another epoch."""
        pairs = [f"{byte:02x}" for byte in random.randbytes(16)]
        self.epoch = f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
        self.moment += 1
        self._log.clear()

    def untrack(self) -> None:
        self.epoch = ""
        self._log.clear()

    def changed(self, since: int, until: int) -> list[tuple[int, int]]:
        """(start, end) in whole blocks of what was written from one moment to another of this epoch."""
        return whole_blocks(((start, end) for at, start, end in self._log if since <= at < until), self.size)

    def allocated(self, depth: int) -> list[tuple[int, int]]:
        """(start, end) in whole blocks of what a view may hold."""
        found = list(_data(self.flat))
        for delta in self.deltas[:depth]:
            found += delta.written.within(0, self.size)
        return whole_blocks(found, self.size)


def whole_blocks(parts: Iterable[tuple[int, int]], size: int, more: int = 0) -> list[tuple[int, int]]:
    """Rounded out, merged and in order; ``more`` blocks are added at each side."""
    ranges = Ranges()
    for start, end in parts:
        ranges.add(max(0, start // BLOCK - more) * BLOCK, min(size, (-(-end // BLOCK) + more) * BLOCK))
    return list(ranges.within(0, size))


def _data(path: Path) -> Iterator[tuple[int, int]]:
    with path.open("rb") as file:
        at = 0
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: no more
                return
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, at


def _write_path(path: Path, offset: int, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        _write(file, offset, data)
    finally:
        os.close(file)


def _write(file: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
