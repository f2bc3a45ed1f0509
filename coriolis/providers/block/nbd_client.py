"""NBD disks over a unix socket through libnbd, whose calls release the interpreter lock and run in threads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from coriolis.errors import (
    ChangeLogLost,
    CoriolisError,
    Corrupt,
    Denied,
    QuotaExceeded,
    TimedOut,
    Unavailable,
)
from coriolis.model.disk import Extent, ExtentKind
from coriolis.providers.block.calls import MAX_THREADS, Calls
from coriolis.providers.block.qemu_nbd import server_error
from coriolis.providers.block.ranges import OverlapOrder, check_range, check_start, check_transfer, joined

T = TypeVar("T")

BASE_ALLOCATION = "base:allocation"
BLOCK_SIZE = 65536
"""qcow2's default cluster: reads at this alignment touch the fewest clusters."""
MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAP_BYTES = 1 << 30
"""Bytes asked about per block-status request; NBD lengths are 32 bits."""
ZERO_BYTES = 1 << 30
CONNECT_TIMEOUT_S = 30.0
_STATE_HOLE, _STATE_ZERO, _STATE_DIRTY = 1, 2, 1


def allocation_kind(flags: int) -> ExtentKind:
    """Kind that ``base:allocation`` flags mean; unallocated without 'reads as zero' must be read."""
    if not flags & _STATE_ZERO:
        return ExtentKind.DATA
    return ExtentKind.HOLE if flags & _STATE_HOLE else ExtentKind.ZERO


def decode_status(offset: int, entries: list[int], limit: int) -> list[tuple[int, int, int]]:
    """(offset, length, flags) of one block-status answer, cut at ``limit``. An empty one raises Corrupt."""
    found: list[tuple[int, int, int]] = []
    for length, flags in zip(entries[::2], entries[1::2], strict=True):
        kept = min(length, limit - offset)
        if kept <= 0:
            break
        found.append((offset, kept, flags))
        offset += kept
    if not found:
        raise Corrupt(f"the NBD server gave an empty map at {offset}")
    return found


class NbdDisk:
    """A pool of connections to one export; each serves one call at a time."""

    def __init__(self, socket_path: str, export: str, context: str, connections: int = MAX_THREADS) -> None:
        self._socket, self._export, self._context = socket_path, export, context
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._all: list[Any] = []
        self._calls = Calls(connections, "nbd")
        self._order = OverlapOrder()
        self._size = 0

    async def open(self) -> None:
        """Connect once, to learn the size and that the wanted map exists."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._size = await self._calls.run(self._with_handle, lambda handle: int(handle.get_size()))
        except TimeoutError as error:
            raise TimedOut(f"the NBD server did not answer within {CONNECT_TIMEOUT_S:g} s") from error

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_size(self) -> int:
        return BLOCK_SIZE

    def _connect(self) -> Any:
        import nbd

        handle = nbd.NBD()
        try:
            handle.set_export_name(self._export)
            # Then qemu takes unaligned requests and pads them itself, where a format has blocks larger than a byte.
            handle.set_request_block_size(False)
            if self._context:
                handle.add_meta_context(self._context)
            handle.connect_unix(self._socket)
            if self._context and not handle.can_meta_context(self._context):
                if self._context == BASE_ALLOCATION:
                    raise Corrupt("the NBD server offers no allocation map")
                raise ChangeLogLost(f"the change log {self._context!r} does not exist or is not usable")
        except nbd.Error as error:
            raise server_error(self._socket, _from_nbd(error, "connect")) from error
        self._all.append(handle)
        return handle

    def _with_handle(self, call: Callable[[Any], T]) -> T:
        """Run ``call`` in a worker thread with a connection of its own; a broken one is dropped."""
        import nbd

        try:
            handle = self._idle.get_nowait()
        except queue.Empty:
            handle = self._connect()
        try:
            result = call(handle)
        except nbd.Error as error:
            if handle.aio_is_ready():
                self._idle.put(handle)
            raise _from_nbd(error, "disk access") from error
        self._idle.put(handle)
        return result

    async def read_at(self, offset: int, length: int) -> bytes:
        check_transfer(offset, length, self._size)

        def read(handle: Any) -> bytes:
            if length <= MAX_REQUEST_BYTES:
                return bytes(handle.pread(length, offset)) if length else b""
            parts = bytearray()
            for position in range(offset, offset + length, MAX_REQUEST_BYTES):
                parts += handle.pread(min(MAX_REQUEST_BYTES, offset + length - position), position)
            return bytes(parts)

        return await self._calls.run(self._with_handle, read)

    async def status(self, starting_offset: int) -> AsyncIterator[tuple[int, int, int]]:
        """(offset, length, flags) of the context from ``starting_offset`` to the end, gapless."""
        check_start(starting_offset, self._size)
        position = starting_offset
        while position < self._size:
            for offset, length, flags in await self._calls.run(self._with_handle, self._asker(position)):
                yield offset, length, flags
                position = offset + length

    def _asker(self, position: int) -> Callable[[Any], list[tuple[int, int, int]]]:
        length = min(MAP_BYTES, self._size - position)
        return lambda handle: self._ask(handle, position, length, self._size)

    def _ask(self, handle: Any, position: int, length: int, limit: int) -> list[tuple[int, int, int]]:
        """One block-status request; the answer may cover less than ``length`` or more, up to ``limit``."""
        answers: list[list[int]] = []
        failed: list[int] = []

        def collect(context: str, _offset: int, entries: list[int], error: Any) -> None:
            if context == self._context:
                answers.append(list(entries))
            if error.value:
                failed.append(error.value)

        handle.block_status(length, position, collect)
        if failed or not answers:
            raise Unavailable(f"the NBD server gave no map at {position}")
        return decode_status(position, answers[0], limit)

    def _map(self, handle: Any, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Allocation of a range; all of it as data when the disk was opened without the allocation map."""
        if self._context != BASE_ALLOCATION:
            yield offset, length, 0
            return
        position, end = offset, offset + length
        while position < end:
            for at, kept, flags in self._ask(handle, position, end - position, end):
                yield at, kept, flags
                position = at + kept

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        check_transfer(offset, view.nbytes, self._size)

        def write(handle: Any) -> None:
            for start in range(0, view.nbytes, MAX_REQUEST_BYTES):
                handle.pwrite(bytes(view[start : start + MAX_REQUEST_BYTES]), offset + start)

        await self._order.run(offset, view.nbytes, lambda: self._calls.run(self._with_handle, write))

    async def write_zeroes(self, offset: int, length: int) -> None:
        check_range(offset, length, self._size)

        def zero(handle: Any) -> None:
            for start in range(offset, offset + length, ZERO_BYTES):
                part = min(ZERO_BYTES, offset + length - start)
                for at, kept, flags in self._map(handle, start, part):
                    # Zeroing what is a hole already would make qcow2 allocate tables: 256 MiB for 2 TiB.
                    if allocation_kind(flags) is not ExtentKind.HOLE:
                        handle.zero(kept, at)

        await self._order.run(offset, length, lambda: self._calls.run(self._with_handle, zero))

    async def flush(self) -> None:
        def sync(handle: Any) -> None:
            handle.flush()

        await self._order.run(0, self._size, lambda: self._calls.run(self._with_handle, sync))

    async def close(self) -> None:
        def release() -> None:
            import nbd

            for handle in self._all:
                with contextlib.suppress(nbd.Error):
                    handle.shutdown()
            # The binding closes a handle when its last reference goes.
            self._all.clear()
            self._idle = queue.LifoQueue()

        await self._calls.close(release)


def _from_nbd(error: Any, what: str) -> CoriolisError:
    number, text = error.errnum or 0, str(error.string)
    if number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return QuotaExceeded(f"{what} over NBD: {text}: free space on the storage behind it")
    if number in (errno.EPERM, errno.EACCES):
        return Denied(f"{what} over NBD: {text}")
    return Unavailable(f"{what} over NBD: {text}")


@asynccontextmanager
async def nbd_disk(
    socket_path: str, export: str = "", context: str = "", connections: int = MAX_THREADS
) -> AsyncIterator[NbdDisk]:
    """An open export. With ``context``, ``status`` works; a missing dirty bitmap raises ChangeLogLost."""
    disk = NbdDisk(socket_path, export, context, connections)
    try:
        await disk.open()
        yield disk
    finally:
        await disk.close()


async def allocation(disk: NbdDisk, starting_offset: int) -> AsyncIterator[Extent]:
    """All ranges from ``starting_offset``; ``disk`` was opened with ``base:allocation``."""
    async for extent in _joined(disk, starting_offset, lambda flags: allocation_kind(flags)):
        yield extent


async def dirty(disk: NbdDisk, starting_offset: int) -> AsyncIterator[Extent]:
    """Changed ranges, as data; ``disk`` was opened with a ``qemu:dirty-bitmap:`` context."""
    kinds = {True: ExtentKind.DATA, False: None}
    async for extent in _joined(disk, starting_offset, lambda flags: kinds[bool(flags & _STATE_DIRTY)]):
        yield extent


async def _joined(disk: NbdDisk, start: int, kind_of: Callable[[int], ExtentKind | None]) -> AsyncIterator[Extent]:
    last: Extent | None = None
    async for offset, length, flags in disk.status(start):
        kind = kind_of(flags)
        if kind is None:
            continue
        *done, last = joined([*([last] if last else []), Extent(offset, length, kind)])
        for extent in done:
            yield extent
    if last is not None:
        yield last
