"""Digests of cells, several reads ahead: who compares a disk reads all of it, and waits for no answer alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from coriolis.transfer.cells import CELL_BYTES, cell_length
from coriolis.transfer.codec import cell_digest, nonzero_blocks

READS_AT_ONCE = 4


class Readable(Protocol):
    """A ``BlockReader`` or ``BlockWriter``."""

    async def read_at(self, offset: int, length: int) -> bytes: ...


async def read_digests(
    disk: Readable, cells: Iterable[int], size_bytes: int
) -> AsyncGenerator[tuple[int, bytes], None]:
    """(cell, digest) in the order of ``cells``; the digest of a cell of zeros is empty. Raises what reading does.

    The body of the caller's loop must not raise or wait: reads that are under way end with the generator.
    """
    ahead: deque[tuple[int, asyncio.Task[bytes]]] = deque()
    try:
        for cell in cells:
            read = disk.read_at(cell * CELL_BYTES, cell_length(cell, size_bytes))
            ahead.append((cell, asyncio.ensure_future(read)))
            if len(ahead) >= READS_AT_ONCE:
                yield await _next(ahead)
        while ahead:
            yield await _next(ahead)
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)


async def _next(ahead: deque[tuple[int, asyncio.Task[bytes]]]) -> tuple[int, bytes]:
    cell, task = ahead[0]
    data = await task
    ahead.popleft()
    return cell, cell_digest(data) if nonzero_blocks(data) else b""
