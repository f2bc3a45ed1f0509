"""A reader that stays below a rate: for origins whose storage must not notice us."""

from __future__ import annotations

import asyncio

from coriolis.providers.base import BlockReader, span_of


class ThrottledReader:
    """Reads through ``inner`` at no more than ``bytes_per_s`` on average; a burst is at most one read."""

    def __init__(self, inner: BlockReader, bytes_per_s: int) -> None:
        self._inner = inner
        self._rate = bytes_per_s
        self._free_at = 0.0

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def block_size(self) -> int:
        return self._inner.block_size

    @property
    def span_bytes(self) -> int | None:
        return span_of(self._inner)

    async def read_at(self, offset: int, length: int) -> bytes:
        now = asyncio.get_running_loop().time()
        start = max(now, self._free_at)
        # booked before waiting, so that parallel lanes queue up instead of all seeing the same free moment
        self._free_at = start + length / self._rate
        if start > now:
            await asyncio.sleep(start - now)
        return await self._inner.read_at(offset, length)


def throttled(reader: BlockReader, bytes_per_s: int) -> BlockReader:
    """``reader`` itself when the limit is 0."""
    return ThrottledReader(reader, bytes_per_s) if bytes_per_s else reader
