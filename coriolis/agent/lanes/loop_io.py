"""Blocking access of a lane to a disk that only the task's event loop can reach."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from coriolis.agent.lanes.read_ahead import AheadRoom, ReadAhead
from coriolis.errors import TimedOut
from coriolis.providers.base import BlockReader, BlockWriter

CALL_TIMEOUT_S = 300.0
"""One write of a cell through a provider; a provider judges silence by itself and much earlier."""


class LoopReader:
    """A provider's reader, whose lanes read ahead."""

    def __init__(self, reader: BlockReader, loop: asyncio.AbstractEventLoop, room: AheadRoom) -> None:
        self._reader, self._loop, self._room = reader, loop, room

    def for_lane(self) -> ReadAhead:
        return ReadAhead(self._start, self._room)

    def _start(self, offset: int, length: int) -> Future[bytes]:
        return asyncio.run_coroutine_threadsafe(self._reader.read_at(offset, length), self._loop)


class LoopWriter:
    """A provider's writer, called from a lane's thread."""

    def __init__(self, writer: BlockWriter, loop: asyncio.AbstractEventLoop) -> None:
        self._writer, self._loop = writer, loop

    def write(self, offset: int, data: bytes | memoryview) -> None:
        _wait(self._loop, self._writer.write_at(offset, data))

    def write_zeroes(self, offset: int, length: int) -> None:
        _wait(self._loop, self._writer.write_zeroes(offset, length))


def _wait(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run_coroutine_threadsafe(call, loop).result(CALL_TIMEOUT_S)
    except FutureTimeoutError as silent:
        raise TimedOut(f"a disk has not answered for {CALL_TIMEOUT_S:.0f} s") from silent
