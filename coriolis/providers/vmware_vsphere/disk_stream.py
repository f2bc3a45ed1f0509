"""A staged raw disk as the pieces of a stream-optimised VMDK: holes are skipped, grains are packed on several threads.

Blocking; only a few MiB are in memory at a time, whatever the size of the disk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future

from coriolis.providers.block.raw_io import data_ranges, read_exact
from coriolis.providers.vmware_vsphere.stream_writer import GRAIN_BYTES, StreamWriter, capacity_of

try:
    from isal.isal_zlib import compress as _compress  # several times the speed of zlib
except ImportError:
    from zlib import compress as _compress

LEVEL = 1
SPAN_BYTES = 1 << 20
SPANS_AHEAD = 8
PACKERS = min(4, os.cpu_count() or 1)
_ZEROES = bytes(GRAIN_BYTES)


def spans(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is allocated, in whole grains and at most 1 MiB each: increasing and disjoint."""
    position = 0
    while found := data_ranges(descriptor, position, size):
        for extent in found:
            first = max(position, extent.offset // GRAIN_BYTES * GRAIN_BYTES)
            end = min(size, -(-extent.end // GRAIN_BYTES) * GRAIN_BYTES)
            for offset in range(first, end, SPAN_BYTES):
                yield offset, min(SPAN_BYTES, end - offset)
            position = max(position, end)


def packed_grains(descriptor: int, offset: int, length: int) -> list[tuple[int, bytes]]:
    """The grains of a span that are not zero, as zlib streams."""
    data = memoryview(read_exact(descriptor, offset, length))
    found = []
    for at in range(0, length, GRAIN_BYTES):
        grain: bytes | memoryview = data[at : at + GRAIN_BYTES]
        if grain == _ZEROES[: len(grain)]:
            continue
        if len(grain) < GRAIN_BYTES:  # the end of the disk: a grain is always whole
            grain = bytes(grain).ljust(GRAIN_BYTES, b"\0")
        found.append((offset + at, _compress(grain, LEVEL)))
    return found


def vmdk_pieces(
    descriptor: int, size: int, pool: Executor, on_progress: Callable[[int], None] = lambda offset: None
) -> Generator[bytes, None, None]:
    """The file's bytes in order. ``on_progress``: how far into the disk the pieces given so far reach, in bytes.

    Raises what ``capacity_of`` and ``StreamWriter`` raise; Corrupt when the disk became shorter; OSError passes.
    """
    writer = StreamWriter(capacity_of(size))
    yield writer.begin()
    waiting: deque[tuple[int, Future[list[tuple[int, bytes]]]]] = deque()
    left = spans(descriptor, size)
    try:
        while True:
            while len(waiting) < SPANS_AHEAD and (span := next(left, None)) is not None:
                waiting.append((sum(span), pool.submit(packed_grains, descriptor, *span)))
            if not waiting:
                break
            end, packed = waiting.popleft()
            if grains := packed.result():
                yield b"".join(writer.grain(offset, data) for offset, data in grains)
            on_progress(end)
        yield from writer.finish()
        on_progress(size)
    finally:
        for _, packed in waiting:  # nobody may still read the descriptor when it is closed
            if not packed.cancel():
                packed.exception()
