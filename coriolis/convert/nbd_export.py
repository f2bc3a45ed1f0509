"""A read-only NBD server over any ``BlockReader``, on a unix socket.

QEMU keeps many requests in flight; they are read concurrently and answered in any order. Memory is bounded:
requests wait while 64 MiB of answers are being read or sent on a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from coriolis.convert import nbd_protocol as nbd
from coriolis.errors import CoriolisError, Corrupt, InvalidInput
from coriolis.providers.base import BlockReader

MAX_CONNECTIONS = 8
MAX_INFLIGHT_BYTES = 64 << 20
MAX_INFLIGHT_REQUESTS = 64
MAX_SOCKET_PATH_BYTES = 100  # sun_path has 108
HANDSHAKE_TIMEOUT_S = 30.0


class Counters:
    """What the export has served so far;

    ``error`` is the first failure of the reader, which clients see as EIO.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.bytes_read = 0
        self.error: CoriolisError | None = None


@asynccontextmanager
async def export(reader: BlockReader, socket_path: Path, name: str = "") -> AsyncIterator[Counters]:
    """Serve ``reader`` at ``socket_path`` for the length of the block.

    Raises InvalidInput for a path too long.
    """
    if len(str(socket_path).encode()) > MAX_SOCKET_PATH_BYTES:
        raise InvalidInput(f"the socket path {socket_path} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    block = min(max(512, reader.block_size), nbd.MAX_REQUEST_BYTES)
    block = 1 << (block.bit_length() - 1)
    shown = nbd.Export(name, reader.size, block)
    counters = Counters()
    connections: set[asyncio.Task[None]] = set()

    def accept(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        if len(connections) >= MAX_CONNECTIONS:
            outgoing.close()
            return
        serving = _Connection(reader, shown, counters, incoming, outgoing).serve()
        task = asyncio.get_running_loop().create_task(serving)
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_unix_server(accept, socket_path)
    try:
        yield counters
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        socket_path.unlink(missing_ok=True)


class _Connection:
    def __init__(
        self,
        reader: BlockReader,
        shown: nbd.Export,
        counters: Counters,
        incoming: asyncio.StreamReader,
        outgoing: asyncio.StreamWriter,
    ) -> None:
        self._reader = reader
        self._export = shown
        self._counters = counters
        self._in = incoming
        self._out = outgoing
        self._sending = asyncio.Lock()
        self._room = asyncio.Condition()
        self._inflight_bytes = 0
        self._inflight_requests = 0

    async def serve(self) -> None:
        """Until the client leaves. What a client does wrong ends its connection and nothing else."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                agreed = await self._handshake()
            if agreed:
                await self._transmit()
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        except BaseExceptionGroup as group:
            _, rest = group.split((ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError))
            if rest is not None:
                raise
        finally:
            self._out.close()

    async def _handshake(self) -> bool:
        """True when transmission begins."""
        await self._send(nbd.GREETING)
        (flags,) = nbd.CLIENT_FLAGS.unpack(await self._in.readexactly(nbd.CLIENT_FLAGS.size))
        if not flags & nbd.FLAG_FIXED_NEWSTYLE:
            return False
        for _ in range(nbd.MAX_OPTIONS):
            magic, option, length = nbd.OPTION.unpack(await self._in.readexactly(nbd.OPTION.size))
            if magic != nbd.IHAVEOPT or length > nbd.MAX_OPTION_BYTES:
                return False
            data = await self._in.readexactly(length)
            if option == nbd.OPT_EXPORT_NAME:
                if data.decode("utf-8", "replace") == self._export.name:
                    await self._send(nbd.export_name_reply(self._export, bool(flags & nbd.FLAG_NO_ZEROES)))
                    return True
                return False  # this option knows no error reply
            reply, begins = self._answer_option(option, data)
            await self._send(reply)
            if begins or option == nbd.OPT_ABORT:
                return begins
        return False

    def _answer_option(self, option: int, data: bytes) -> tuple[bytes, bool]:
        """(reply, whether transmission begins)."""
        if option == nbd.OPT_ABORT:
            return nbd.option_reply(option, nbd.REP_ACK), False
        if option == nbd.OPT_LIST:
            return (nbd.option_reply(option, nbd.REP_ERR_INVALID) if data else nbd.list_reply(self._export)), False
        if option not in (nbd.OPT_GO, nbd.OPT_INFO):
            return nbd.option_reply(option, nbd.REP_ERR_UNSUP), False
        asked = nbd.name_in_info(data)
        if asked is None:
            return nbd.option_reply(option, nbd.REP_ERR_INVALID), False
        if asked != self._export.name:
            return nbd.option_reply(option, nbd.REP_ERR_UNKNOWN), False
        return nbd.info_replies(option, self._export), option == nbd.OPT_GO

    async def _transmit(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                request = nbd.parse_request(await self._in.readexactly(nbd.REQUEST.size))
                if request is None or request.command == nbd.CMD_DISC:
                    return
                if request.command == nbd.CMD_WRITE:  # its payload must be taken off the stream
                    if request.length > nbd.MAX_REQUEST_BYTES:
                        return
                    await self._in.readexactly(request.length)
                error = nbd.refusal(request, self._export.size)
                if error:
                    await self._send(nbd.simple_reply(request.cookie, error))
                    continue
                await self._reserve(request.length)
                group.create_task(self._answer_read(request))

    async def _answer_read(self, request: nbd.Request) -> None:
        try:
            try:
                data = await self._reader.read_at(request.offset, request.length)
                if len(data) != request.length:
                    raise Corrupt(f"the reader gave {len(data)} bytes where {request.length} were asked for")
            except CoriolisError as error:
                self._counters.error = self._counters.error or error
                await self._send(nbd.simple_reply(request.cookie, nbd.EIO))
                return
            self._counters.requests += 1
            self._counters.bytes_read += len(data)
            await self._send(nbd.simple_reply(request.cookie, 0), data)
        finally:
            await self._release(request.length)

    async def _reserve(self, length: int) -> None:
        async with self._room:
            await self._room.wait_for(lambda: self._has_room(length))
            self._inflight_bytes += length
            self._inflight_requests += 1

    def _has_room(self, length: int) -> bool:
        if self._inflight_requests == 0:
            return True
        fits = self._inflight_bytes + length <= MAX_INFLIGHT_BYTES
        return fits and self._inflight_requests < MAX_INFLIGHT_REQUESTS

    async def _release(self, length: int) -> None:
        async with self._room:
            self._inflight_bytes -= length
            self._inflight_requests -= 1
            self._room.notify()

    async def _send(self, *parts: bytes) -> None:
        """One reply, whole: replies of concurrent reads must not mix."""
        async with self._sending:
            for part in parts:
                self._out.write(part)
            await self._out.drain()
