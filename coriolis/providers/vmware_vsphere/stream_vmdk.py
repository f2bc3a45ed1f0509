"""Decodes a stream-optimised VMDK as it arrives: no seek, no temporary file, bounded memory. Pure.

Layout: VMware Virtual Disk Format 1.1, "Stream-Optimized Compressed Sparse Extents". A header, a descriptor, then
markers, each at the beginning of a sector: a grain's carries its compressed data, others announce tables, which a
stream does not need. The last one says that the stream has ended; without it a download was cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from coriolis.errors import Corrupt, Unsupported

try:  # several times as fast as zlib, with the same interface
    from isal import isal_zlib as zlib
except ImportError:  # not built for every platform
    import zlib  # type: ignore[no-redef]

SECTOR = 512
MAGIC = b"KDMV"
MAX_GRAIN_SECTORS = 2048
MAX_OVERHEAD_SECTORS = 1 << 20
MAX_TABLE_SECTORS = 1 << 22
_HEADER = struct.Struct("<4sIIQQQQIQQQBccccH")
_MARKER = struct.Struct("<QI")
_COMPRESSED, _MARKERS = 1 << 16, 1 << 17
_DEFLATE = 1
_END_OF_STREAM = 0
_NOT_DEFLATE: tuple[type[Exception], ...] = (zlib.error,)  # type: ignore[assignment]


class Grain(NamedTuple):
    """``offset`` in bytes; what lies between grains is zero."""

    offset: int
    data: bytes


class StreamVmdk:
    """Feed it pieces of any size; it gives grains in increasing order. ``size_bytes`` is known after the header."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.ended = False
        self._buffer = bytearray()
        self._at = self._skip = 0
        self._grain_bytes = 0
        self._next = 0

    def feed(self, piece: bytes | memoryview) -> Iterator[Grain]:
        """Raises Corrupt for what is no such stream, Unsupported for another kind of VMDK."""
        if self.ended:
            return  # a footer's copy may follow; it says nothing new
        self._buffer += piece
        self._at = 0
        with memoryview(self._buffer) as view:
            yield from self._grains(view)
        del self._buffer[: len(self._buffer) if self.ended else self._at]

    def _grains(self, view: memoryview) -> Iterator[Grain]:
        """All that are whole in ``view``; ``_at`` is where the next marker begins."""
        while not self.ended:
            passed = min(self._skip, len(view) - self._at)
            self._at, self._skip = self._at + passed, self._skip - passed
            at = self._at
            if len(view) - at < SECTOR:
                return
            if not self._grain_bytes:
                self._read_header(view[at : at + SECTOR])
                continue
            value, size = _MARKER.unpack_from(view, at)
            if not size:
                self._pass_table(value, struct.unpack_from("<I", view, at + _MARKER.size)[0])
                continue
            if size > 2 * self._grain_bytes + SECTOR:
                raise Corrupt(f"a grain of {size} compressed bytes is larger than any of this disk can be")
            whole = -(-(_MARKER.size + size) // SECTOR) * SECTOR
            if len(view) - at < whole:
                return
            self._at = at + whole
            yield self._grain(value, view[at + _MARKER.size : at + _MARKER.size + size])

    def finish(self, *, end_marker: bool = True) -> None:
        """The input has ended. Raises Corrupt when it was cut off.

        ``end_marker``: VMware always writes one; images of qemu have none, and end at any sector.
        """
        if not self._grain_bytes:
            raise Corrupt("the stream ended within the VMDK's header")
        if not self.ended and (end_marker or self._buffer or self._skip):
            raise Corrupt("the VMDK stream was cut off: it has no end marker")

    def _read_header(self, sector: memoryview) -> None:
        fields = _HEADER.unpack_from(sector)
        magic, _version, flags, capacity, grain, overhead, algorithm = *fields[:5], fields[10], fields[16]
        if magic != MAGIC:
            raise Corrupt("this is no VMDK stream: its magic number is wrong")
        if not flags & _COMPRESSED or not flags & _MARKERS or algorithm != _DEFLATE:
            raise Unsupported("the VMDK is not stream-optimised")
        if not 1 <= grain <= MAX_GRAIN_SECTORS or not 1 <= overhead <= MAX_OVERHEAD_SECTORS:
            raise Corrupt(f"the VMDK states grains of {grain} sectors after {overhead}: impossible")
        self.size_bytes, self._grain_bytes = capacity * SECTOR, grain * SECTOR
        self._skip = overhead * SECTOR

    def _pass_table(self, sectors: int, kind: int) -> None:
        if kind == _END_OF_STREAM and sectors == 0:
            self.ended = True
        elif sectors > MAX_TABLE_SECTORS:
            raise Corrupt(f"a table of {sectors} sectors is larger than any VMDK has")
        else:
            self._skip = SECTOR + sectors * SECTOR

    def _grain(self, lba: int, packed: memoryview) -> Grain:
        offset = lba * SECTOR
        if offset < self._next or offset >= self.size_bytes or offset % self._grain_bytes:
            raise Corrupt(f"a grain at {offset} is out of order or outside of the disk of {self.size_bytes} bytes")
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(packed, self._grain_bytes + 1)
        except _NOT_DEFLATE as error:
            raise Corrupt(f"the grain at {offset} cannot be unpacked: {error}") from error
        wanted = min(self._grain_bytes, self.size_bytes - offset)
        if len(data) > self._grain_bytes or len(data) < wanted or not inflate.eof:
            raise Corrupt(f"the grain at {offset} holds {len(data)} bytes, not {wanted}")
        self._next = offset + self._grain_bytes
        return Grain(offset, data[:wanted])
