"""A raw file as a ``BlockWriter`` (and so a ``BlockReader``): the simplest volume there is, for tests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from coriolis.errors import InvalidInput


class FileVolume:
    """Close it when done.

    ``fail_after_writes``: that many writes succeed, then OSError stands for a killed process.
    """

    block_size = 4096

    def __init__(self, path: Path, *, writable: bool = False, fail_after_writes: int | None = None) -> None:
        self._fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size
        self._writes_left = fail_after_writes
        self.flushes = 0

    def close(self) -> None:
        os.close(self._fd)

    async def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise InvalidInput(f"read of {length} bytes at {offset} is beyond the end")
        return await asyncio.to_thread(os.pread, self._fd, length, offset)

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        if offset < 0 or offset + len(data) > self.size:
            raise InvalidInput(f"write of {len(data)} bytes at {offset} is beyond the end")
        self._count_write()
        await asyncio.to_thread(os.pwrite, self._fd, data, offset)

    async def write_zeroes(self, offset: int, length: int) -> None:
        await self.write_at(offset, bytes(length))

    async def flush(self) -> None:
        await asyncio.to_thread(os.fsync, self._fd)
        self.flushes += 1

    def _count_write(self) -> None:
        if self._writes_left is not None:
            if self._writes_left == 0:
                raise OSError("the process was killed here")
            self._writes_left -= 1
