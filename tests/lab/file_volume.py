"""A raw file as a ``BlockWriter`` (and so a ``BlockReader``): the simplest volume there is, for tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from coriolis.errors import InvalidInput


class FileVolume:
    """Close it when done. ``before_write`` is called before each write: where a test kills the process."""

    block_size = 4096

    def __init__(self, path: Path, *, writable: bool = False, before_write: Callable[[], None] = lambda: None) -> None:
        self._fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size
        self._before_write = before_write

    def close(self) -> None:
        os.close(self._fd)

    async def read_at(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise InvalidInput(f"read of {length} bytes at {offset} is beyond the end")
        return await asyncio.to_thread(os.pread, self._fd, length, offset)

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        if offset < 0 or offset + len(data) > self.size:
            raise InvalidInput(f"write of {len(data)} bytes at {offset} is beyond the end")
        self._before_write()
        await asyncio.to_thread(os.pwrite, self._fd, data, offset)

    async def write_zeroes(self, offset: int, length: int) -> None:
        await self.write_at(offset, bytes(length))

    async def flush(self) -> None:
        await asyncio.to_thread(os.fsync, self._fd)
