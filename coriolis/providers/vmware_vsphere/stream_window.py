"""The part of a stream that is held: what was decoded from ``begin`` to ``end``, zero between grains. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter

from coriolis.providers.vmware_vsphere.stream_vmdk import Grain

_OFFSET = attrgetter("offset")
COMPACT_GRAINS = 1024
"""Forgotten grains are cut off the list in one go; their data is gone at once."""
_FORGOTTEN = Grain(0, b"")


class Window:
    """``held``, ``ahead``: bytes of data in all, and beyond what was ever wanted; zeroes cost nothing."""

    def __init__(self) -> None:
        self.begin = self.end = self.held = self.ahead = 0
        self._reach = 0
        self._grains: list[Grain] = []
        self._first = 0

    def take(self, grains: Sequence[Grain]) -> None:
        """The next grains of the stream."""
        for grain in grains:
            size = len(grain.data)
            self.held += size
            if grain.offset >= self._reach:
                self.ahead += size
        if grains:
            self._grains += grains
            self.end = grains[-1].offset + len(grains[-1].data)

    def want(self, end: int) -> None:
        """Somebody reads up to ``end``."""
        if end <= self._reach:
            return
        first = bisect_left(self._grains, self._reach, self._first, key=_OFFSET)
        last = bisect_left(self._grains, end, first, key=_OFFSET)
        self.ahead -= sum(len(grain.data) for grain in self._grains[first:last])
        self._reach = end

    def holds(self, begin: int, end: int) -> bool:
        return self.begin <= begin and end <= self.end

    def cut(self, offset: int, length: int) -> bytes:
        """A range that is held."""
        end, position = offset + length, offset
        first = max(self._first, bisect_right(self._grains, offset, self._first, key=_OFFSET) - 1)
        pieces: list[bytes | memoryview] = []
        for index in range(first, len(self._grains)):
            grain = self._grains[index]
            if grain.offset >= end:
                break
            begin, stop = max(position, grain.offset), min(end, grain.offset + len(grain.data))
            if begin >= stop:
                continue
            if begin > position:
                pieces.append(bytes(begin - position))
            whole = begin == grain.offset and stop - begin == len(grain.data)
            pieces.append(grain.data if whole else memoryview(grain.data)[begin - grain.offset : stop - grain.offset])
            position = stop
        if position < end:
            pieces.append(bytes(end - position))
        return b"".join(pieces)

    def forget(self, needed: int, limit: int) -> None:
        """Drop the oldest grains that end before ``needed``, down to ``limit`` bytes."""
        while self.held > limit and self._first < len(self._grains):
            grain = self._grains[self._first]
            end = grain.offset + len(grain.data)
            if end > needed:
                break
            self._grains[self._first] = _FORGOTTEN
            self._first += 1
            self.held -= len(grain.data)
            self.begin = end
        if self._first > COMPACT_GRAINS:
            del self._grains[: self._first]
            self._first = 0
