"""Writes stream-optimised VMDK as ESXi's export does, from the bytes of a simulated disk: markers, footer, end marker.

Layout: VMware Virtual Disk Format 1.1, "Stream-Optimized Compressed Sparse Extents". qemu-img's own output lacks the
footer and the end marker, which downloads are judged by, hence this one. The product has a writer of its own.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

SECTOR = 512
GRAIN = 65536
TABLE_ENTRIES = 512
PIECE = 1 << 20
"""Read and packed at once; a multiple of the grain."""
WORKERS = 4
AHEAD = 8
_HEADER = struct.Struct("<4sIIQQQQIQQQBccccH433x")
_MARKER = struct.Struct("<QII496x")
_AT_END = (1 << 64) - 1
_EOS, _TABLE, _DIRECTORY, _FOOTER = range(4)
_DESCRIPTOR_SECTORS = 20
_OVERHEAD = 128

Read = Callable[[int, int], bytes]


def stream(read: Read, size: int, data: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The file in pieces. ``data``: (offset, length) in order and apart, outside of which everything is zero."""
    capacity = -(-size // SECTOR)
    yield _header(capacity, _AT_END).ljust(SECTOR, b"\0")
    yield _descriptor(capacity).ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0")
    yield bytes((_OVERHEAD - 1 - _DESCRIPTOR_SECTORS) * SECTOR)
    at = _OVERHEAD
    tables: dict[int, list[int]] = {}
    for lba, packed in _packed(read, size, data):
        number, entry = divmod(lba * SECTOR // GRAIN, TABLE_ENTRIES)
        tables.setdefault(number, [0] * TABLE_ENTRIES)[entry] = at
        grain = struct.pack("<QI", lba, len(packed)) + packed
        grain += bytes(-len(grain) % SECTOR)
        yield grain
        at += len(grain) // SECTOR
    directory = [0] * -(-capacity * SECTOR // (GRAIN * TABLE_ENTRIES))
    for number, table in sorted(tables.items()):
        yield _MARKER.pack(4 * TABLE_ENTRIES // SECTOR, 0, _TABLE)
        yield struct.pack(f"<{TABLE_ENTRIES}I", *table)
        directory[number] = at + 1
        at += 1 + 4 * TABLE_ENTRIES // SECTOR
    packed = struct.pack(f"<{len(directory)}I", *directory)
    packed += bytes(-len(packed) % SECTOR)
    yield _MARKER.pack(len(packed) // SECTOR, 0, _DIRECTORY)
    yield packed
    yield _MARKER.pack(1, 0, _FOOTER)
    yield _header(capacity, at + 1).ljust(SECTOR, b"\0")
    yield _MARKER.pack(0, 0, _EOS)


def _header(capacity: int, directory_at: int) -> bytes:
    flags = 1 | 1 << 16 | 1 << 17  # new lines can be told, grains are compressed, markers
    return _HEADER.pack(
        *(b"KDMV", 3, flags, capacity, GRAIN // SECTOR, 1, _DESCRIPTOR_SECTORS, TABLE_ENTRIES, 0, directory_at),
        *(_OVERHEAD, 0, b"\n", b" ", b"\r", b"\n", 1),
    )


def _descriptor(capacity: int) -> bytes:
    return (
        "# Disk DescriptorFile\nversion=1\nCID=7b2c9e11\nparentCID=ffffffff\n"
        f'createType="streamOptimized"\n\n# Extent description\nRDONLY {capacity} SPARSE "generated-stream.vmdk"\n\n'
        f'# The Disk Data Base\n#DDB\n\nddb.adapterType = "lsilogic"\nddb.geometry.cylinders = "{capacity // 16065}"\n'
        'ddb.geometry.heads = "255"\nddb.geometry.sectors = "63"\nddb.virtualHWVersion = "14"\n'
    ).encode()


def _packed(read: Read, size: int, data: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """(first sector, compressed grain) of what is not zero, in order; packed ahead on several threads."""
    with ThreadPoolExecutor(WORKERS, "phony-stream") as pool:
        waiting: deque[Future[list[tuple[int, bytes]]]] = deque()
        for offset in _pieces(size, data):
            waiting.append(pool.submit(_pack, read, offset, min(PIECE, size - offset)))
            if len(waiting) >= AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _pieces(size: int, data: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Offsets of the pieces that hold data, each once."""
    following = 0
    for offset, length in data:
        for at in range(max(following, offset // PIECE * PIECE), min(offset + length, size), PIECE):
            yield at
            following = at + PIECE


def _pack(read: Read, offset: int, length: int) -> list[tuple[int, bytes]]:
    piece = read(offset, length)
    found = []
    for at in range(0, length, GRAIN):
        grain = piece[at : at + GRAIN]
        if grain.count(0) != len(grain):
            found.append(((offset + at) // SECTOR, zlib.compress(grain.ljust(GRAIN, b"\0"), 1)))
    return found
