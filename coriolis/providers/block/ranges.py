"""Pure rules for byte ranges of a disk, and the order of overlapping writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

from coriolis.errors import Corrupt, InvalidInput
from coriolis.model.disk import Extent, ExtentKind

MAX_READ_BYTES = 64 * 1024 * 1024
"""Largest single read or write: bounds what one call may hold in memory."""


def check_range(offset: int, length: int, size: int) -> None:
    """Raise InvalidInput unless [offset, offset + length) lies inside a disk of ``size`` bytes."""
    if offset < 0 or length < 0 or offset + length > size:
        raise InvalidInput(f"range of {length} bytes at {offset} is outside the disk of {size} bytes")


def check_transfer(offset: int, length: int, size: int) -> None:
    """As ``check_range``, for ranges whose bytes are held in memory."""
    check_range(offset, length, size)
    if length > MAX_READ_BYTES:
        raise InvalidInput(f"one call may move at most {MAX_READ_BYTES} bytes, not {length}")


def check_start(starting_offset: int, size: int) -> None:
    """Raise InvalidInput unless iteration may begin at ``starting_offset`` (the end itself gives nothing)."""
    if not 0 <= starting_offset <= size:
        raise InvalidInput(f"starting offset {starting_offset} is outside the disk of {size} bytes")


def joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join adjacent extents of one kind; the input must increase without overlap, else Corrupt."""
    last: Extent | None = None
    for extent in extents:
        if extent.length <= 0:
            continue
        if last is None:
            last = extent
        elif extent.offset < last.end:
            raise Corrupt(f"extent at {extent.offset} overlaps the one that ends at {last.end}")
        elif extent.offset == last.end and extent.kind == last.kind:
            last = Extent(last.offset, last.length + extent.length, last.kind)
        else:
            yield last
            last = extent
    if last is not None:
        yield last


def gapless(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    """Cover [start, end) exactly: gaps become holes, parts outside are cut off."""
    position = start
    for extent in joined(extents):
        first, last = max(extent.offset, start), min(extent.end, end)
        if last <= first:
            continue
        if first > position:
            yield Extent(position, first - position, ExtentKind.HOLE)
        yield Extent(first, last - first, extent.kind)
        position = last
    if position < end:
        yield Extent(position, end - position, ExtentKind.HOLE)


class OverlapOrder:
    """Lets disjoint operations run together and overlapping ones in call order.

    Registration happens before the first await, so the order is the order in which callers called.
    """

    def __init__(self) -> None:
        self._running: dict[int, tuple[int, int, asyncio.Event]] = {}
        self._next = 0

    async def run(self, offset: int, length: int, operation: Callable[[], Awaitable[None]]) -> None:
        """Await ``operation`` on [offset, offset + length) once earlier overlapping ones have ended.

        A caller that is cancelled leaves an operation that has begun to its end, and later ones wait for that: its
        thread goes on writing, and would otherwise write over what they wrote.
        """
        ticket, done = self._next, asyncio.Event()
        self._next += 1
        earlier = [e for s, t, e in self._running.values() if s < offset + length and offset < t]
        self._running[ticket] = (offset, offset + length, done)

        def release(ended: asyncio.Future[None] | None = None) -> None:
            del self._running[ticket]
            done.set()
            if ended is not None and not ended.cancelled():
                ended.exception()  # seen: a caller who was cancelled does not ask for it

        try:
            for event in earlier:
                await event.wait()
            begun = asyncio.ensure_future(operation())
        except BaseException:
            release()
            raise
        begun.add_done_callback(release)
        await asyncio.shield(begun)
