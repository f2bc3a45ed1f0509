"""Random-access reads of a disk that can only be streamed from front to back.

A pump keeps the stream a little ahead of what is asked for and keeps a little behind it, since lanes ask slightly out
of order. Who asks for what has passed makes the stream start again. Nothing is written to a file. A disk takes at most
50 MiB of memory here (what is ahead and behind, and one batch) unless one read asks for more than that, and 25 MiB in
the process that decodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from coriolis.errors import CoriolisError, Corrupt, NotFound, Throttled, TimedOut, Unavailable
from coriolis.providers.block.ranges import check_transfer
from coriolis.providers.vmware_vsphere.export_messages import Batch
from coriolis.providers.vmware_vsphere.stream_vmdk import SECTOR
from coriolis.providers.vmware_vsphere.stream_window import Window

AHEAD_BYTES = 16 << 20
BEHIND_BYTES = 32 << 20
"""Of decoded data; what is zero costs nothing."""
BLOCK_SIZE = 65536
FAILURES_IN_A_ROW = 5
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0

Batches = Callable[[], AbstractAsyncContextManager[AsyncIterator[Batch]]]
"""Opens the stream from its beginning; a batch holds up to a few MiB."""


class _Waiter(NamedTuple):
    begin: int
    end: int
    future: asyncio.Future[bytes]


class StreamReader:
    """Meets ``BlockReader``; runs as a context that ends the pump."""

    def __init__(self, open_batches: Batches, size: int, label: str) -> None:
        self._open_batches, self._size, self._label = open_batches, size, label
        self._moved = asyncio.Event()
        """Somebody waits, or wants the stream to start again."""
        self._window = Window()
        self._waiting: dict[object, _Waiter] = {}
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

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    @property
    def span_bytes(self) -> int:
        """What stays here besides the pieces ahead; who reads further back makes the stream start again."""
        return BEHIND_BYTES

    async def read_at(self, offset: int, length: int) -> bytes:
        """Raises Unavailable when the stream failed several times in a row, Corrupt, NotFound, Denied, and for what
        nobody foresaw CoriolisError."""
        check_transfer(offset, length, self._size)
        if self._failed is not None:
            raise self._failed
        if not length:
            return b""
        window, end = self._window, offset + length
        window.want(end)
        if not self._restart and window.holds(offset, end):
            self._moved.set()  # there may be room ahead now
            return window.cut(offset, length)
        token = object()
        self._waiting[token] = waiter = _Waiter(offset, end, asyncio.get_running_loop().create_future())
        self._restart = self._restart or offset < window.begin
        self._moved.set()
        try:
            return await waiter.future
        finally:
            del self._waiting[token]

    # -- the pump -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures, pause, best = 0, FIRST_PAUSE_S, 0
        while True:
            try:
                await self._stream_once()
            except (Unavailable, Throttled, TimedOut, NotFound) as error:
                if self._window.end > best:
                    failures, pause, best = 0, FIRST_PAUSE_S, self._window.end
                failures += 1
                if failures >= FAILURES_IN_A_ROW:
                    return self._fail(error)
                await asyncio.sleep(pause)
                pause = min(MAX_PAUSE_S, 2 * pause)
            except CoriolisError as error:
                return self._fail(error)
            except Exception as error:  # noqa: BLE001 - whoever reads would wait for ever for a pump that is gone
                unforeseen = CoriolisError(f"{self._label}: {type(error).__name__}: {error}")
                unforeseen.__cause__ = error
                return self._fail(unforeseen)

    def _fail(self, error: CoriolisError) -> None:
        self._failed = error
        for waiter in self._waiting.values():
            if not waiter.future.done():
                waiter.future.set_exception(error)

    async def _stream_once(self) -> None:
        """From the beginning until somebody asks for what has passed. Raises what the stream raises."""
        self._window = Window()
        self._restart = False
        await self._until(lambda: bool(self._waiting))  # an idle reader holds no lease
        self.openings += 1
        ended = False
        async with self._open_batches() as batches:
            async for batch in batches:
                if batch.size_bytes and batch.size_bytes != -(-self._size // SECTOR) * SECTOR:
                    raise Corrupt(f"{self._label}: the export has {batch.size_bytes} bytes, not {self._size}")
                ended = batch.ended
                self._window.take(batch.grains)
                self._serve()
                await self._until(lambda: self._restart or self._wanted())
                if self._restart:
                    return
            if not ended:
                raise Unavailable(f"{self._label}: the export was cut off, it has no end marker")
        self._window.end = self._size
        self._serve()
        await self._until(lambda: self._restart)

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._moved.clear()
            await self._moved.wait()

    def _serve(self) -> None:
        """Answer whoever waits for what is here now, then forget the oldest that nobody waits for."""
        window = self._window
        needed = window.end
        for waiter in self._waiting.values():
            if waiter.future.done():
                continue
            if window.holds(waiter.begin, waiter.end):
                waiter.future.set_result(window.cut(waiter.begin, waiter.end - waiter.begin))
            else:
                needed = min(needed, waiter.begin)
        window.forget(needed, AHEAD_BYTES + BEHIND_BYTES)

    def _wanted(self) -> bool:
        """Whether the stream should go on: somebody waits for what comes, or there is room ahead."""
        waits = any(waiter.end > self._window.end for waiter in self._waiting.values() if not waiter.future.done())
        return waits or self._window.ahead < AHEAD_BYTES
