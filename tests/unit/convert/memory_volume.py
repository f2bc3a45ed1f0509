"""A ``BlockWriter`` in memory that can fail, be slow, and say how many reads it served at once."""

from __future__ import annotations

import asyncio

from coriolis.errors import CoriolisError, InvalidInput


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class MemoryVolume:
    def __init__(self, data: bytes, *, die_after_writes: int | None = None) -> None:
        self.data = bytearray(data)
        self.block_size = 4096
        self.die_after_writes = die_after_writes
        self.error: CoriolisError | None = None
        self.delay_s = 0.0
        self.flushed_writes = 0
        self.writes = 0
        self.most_at_once = 0
        self._at_once = 0

    @property
    def size(self) -> int:
        return len(self.data)

    async def read_at(self, offset: int, length: int) -> bytes:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.delay_s)
            if self.error:
                raise self.error
            if offset + length > self.size:
                raise InvalidInput("beyond the end")
            return bytes(self.data[offset : offset + length])
        finally:
            self._at_once -= 1

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        if self.die_after_writes is not None and self.writes >= self.die_after_writes:
            raise Killed
        self.writes += 1
        self.data[offset : offset + len(data)] = data

    async def write_zeroes(self, offset: int, length: int) -> None:
        await self.write_at(offset, bytes(length))

    async def flush(self) -> None:
        self.flushed_writes = self.writes
