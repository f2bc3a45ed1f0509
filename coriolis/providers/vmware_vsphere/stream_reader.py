"""Random-access reads of a disk that can only be streamed from front to back.

A pump keeps the stream a little ahead of what is asked for and keeps a little behind it, since lanes ask slightly out
of order. Who asks for what has passed makes the stream start again. Memory is bounded; nothing is written to a file.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from coriolis.errors import CoriolisError, Corrupt, NotFound, Throttled, TimedOut, Unavailable
from coriolis.providers.block.calls import Calls
from coriolis.providers.block.ranges import check_transfer
from coriolis.providers.vmware_vsphere.stream_vmdk import SECTOR, Grain, StreamVmdk

AHEAD_BYTES = 16 << 20
BEHIND_BYTES = 32 << 20
"""Of decoded data; what is zero costs nothing."""
BLOCK_SIZE = 65536
FAILURES_IN_A_ROW = 5
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0

Pieces = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]
"""Opens the stream from its beginning; one piece may have any size up to a few MiB."""


class StreamReader:
    """Meets ``BlockReader``; runs as a context that ends the pump."""

    def __init__(self, open_pieces: Pieces, size: int, label: str) -> None:
        self._open_pieces, self._size, self._label = open_pieces, size, label
        self._calls = Calls(1, "vsphere-decode")
        self._moved = asyncio.Condition()
        self._grains: deque[Grain] = deque()
        self._held = 0
        self._begin = 0
        """Everything from here to ``_end`` is known: it is in ``_grains`` or zero."""
        self._end = 0
        self._reach = 0
        """The highest end that was asked for since the stream began."""
        self._waiting: dict[object, tuple[int, int]] = {}
        self._failed: CoriolisError | None = None
        self._restart = False
        self._pump: asyncio.Task[None] | None = None
        self.openings = 0

    async def __aenter__(self) -> StreamReader:
        self._pump = asyncio.create_task(self._run(), name=f"stream of {self._label}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._pump is not None
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        await self._calls.close(self._grains.clear)

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    async def read_at(self, offset: int, length: int) -> bytes:
        """Raises Unavailable when the stream failed several times in a row, Corrupt, NotFound, Denied."""
        check_transfer(offset, length, self._size)
        if not length:
            return b""
        token = object()
        async with self._moved:
            self._waiting[token] = (offset, offset + length)
            try:
                if offset < self._begin:
                    self._restart = True
                self._moved.notify_all()
                await self._moved.wait_for(
                    lambda: (
                        self._failed is not None
                        or (not self._restart and self._begin <= offset and offset + length <= self._end)
                    )
                )
                if self._failed is not None:
                    raise self._failed
                return cut(self._grains, offset, length)
            finally:
                del self._waiting[token]
                self._moved.notify_all()

    # -- the pump -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures, pause, best = 0, FIRST_PAUSE_S, 0
        while True:
            try:
                await self._stream_once()
            except (Unavailable, Throttled, TimedOut, NotFound, Corrupt) as error:
                if isinstance(error, Corrupt) and not isinstance(error, CutOff):
                    return await self._fail(error)
                if self._end > best:
                    failures, pause, best = 0, FIRST_PAUSE_S, self._end
                failures += 1
                if failures >= FAILURES_IN_A_ROW:
                    return await self._fail(error)
                await asyncio.sleep(pause)
                pause = min(MAX_PAUSE_S, 2 * pause)
            except CoriolisError as error:
                return await self._fail(error)

    async def _fail(self, error: CoriolisError) -> None:
        async with self._moved:
            self._failed = error
            self._moved.notify_all()

    async def _stream_once(self) -> None:
        """From the beginning until somebody asks for what has passed. Raises what the stream raises."""
        async with self._moved:
            self._grains.clear()
            self._held = self._begin = self._end = self._reach = 0
            self._restart = False
            await self._moved.wait_for(lambda: bool(self._waiting))  # an idle reader holds no lease
        self.openings += 1
        decoder = StreamVmdk()
        async with self._open_pieces() as pieces:
            async for piece in pieces:
                grains = await self._calls.run(lambda data=piece: list(decoder.feed(data)))  # type: ignore[misc]
                if decoder.size_bytes and decoder.size_bytes != -(-self._size // SECTOR) * SECTOR:
                    raise Corrupt(f"{self._label}: the export has {decoder.size_bytes} bytes, not {self._size}")
                if not await self._offer(grains):
                    return
            if not decoder.ended:
                raise CutOff(f"{self._label}: the export was cut off, it has no end marker")
        async with self._moved:
            self._end = self._size
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self._restart)

    async def _offer(self, grains: list[Grain]) -> bool:
        """Take grains in; wait while nobody needs more. False: start again."""
        async with self._moved:
            for grain in grains:
                self._grains.append(grain)
                self._held += len(grain.data)
                self._end = grain.offset + len(grain.data)
            self._forget()
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self._restart or self._wanted())
            return not self._restart

    def _wanted(self) -> bool:
        """Whether the stream should go on: somebody waits for what comes, or there is room ahead."""
        if any(end > self._end for _, end in self._waiting.values()):
            return True
        return self._held < AHEAD_BYTES + BEHIND_BYTES and self._ahead() < AHEAD_BYTES

    def _ahead(self) -> int:
        reach = max((end for _, end in self._waiting.values()), default=self._reach)
        self._reach = max(reach, self._reach)
        return sum(len(grain.data) for grain in self._grains if grain.offset >= self._reach)

    def _forget(self) -> None:
        """Drop the oldest grains that nobody waits for, down to the bound."""
        needed = min((begin for begin, _ in self._waiting.values()), default=self._end)
        while self._held > AHEAD_BYTES + BEHIND_BYTES and self._grains:
            first = self._grains[0]
            if first.offset + len(first.data) > needed:
                return
            self._grains.popleft()
            self._held -= len(first.data)
            self._begin = first.offset + len(first.data)


class CutOff(Corrupt):
    """The stream ended early; it may be whole the next time."""


def cut(grains: deque[Grain], offset: int, length: int) -> bytes:
    """A range out of grains in increasing order; what lies between them is zero."""
    out, end = bytearray(length), offset + length
    for grain in grains:
        if grain.offset >= end:
            break
        begin, stop = max(offset, grain.offset), min(end, grain.offset + len(grain.data))
        if begin < stop:
            out[begin - offset : stop - offset] = memoryview(grain.data)[begin - grain.offset : stop - grain.offset]
    return bytes(out)
