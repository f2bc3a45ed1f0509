"""A TCP proxy on loopback that loses connections at chosen moments."""

from __future__ import annotations

import asyncio
import enum

BLOCK = 64 << 10
QUIET_S = 0.05
"""An answer is taken to be complete when its sender has been quiet for this long."""


class Cut(enum.StrEnum):
    """What the next request meets. Both look the same to its sender: a lost connection."""

    REQUEST = "the request is lost"
    ANSWER = "the request is carried out, its answer is lost"


class CuttingProxy:
    """``async with CuttingProxy(host, port) as proxy``: listens on ``proxy.port``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._armed: Cut | None = None
        self._cut_after: int | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.cuts = 0
        self.forwarded_bytes = 0
        """From clients to the server."""

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut_next(self, cut: Cut) -> None:
        """Lose the connection at the next request on any connection, once."""
        self._armed = cut

    def cut_after(self, forwarded_bytes: int) -> None:
        """Lose the connection that carries the byte of that number from now on, once."""
        self._cut_after = self.forwarded_bytes + forwarded_bytes

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            answers, requests = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        lost = asyncio.Event()
        swallow = asyncio.Event()
        pumps = [
            asyncio.create_task(self._requests(reader, requests, swallow, lost)),
            asyncio.create_task(self._answers(answers, writer, swallow, lost)),
            asyncio.create_task(lost.wait()),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for stream in (requests, writer):
                stream.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, swallow: asyncio.Event, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(BLOCK):
            self.forwarded_bytes += len(data)
            if self._cut_after is not None and self.forwarded_bytes >= self._cut_after:
                self._cut_after = None
                self.cuts += 1
                lost.set()
                return
            if self._armed is not None:
                armed, self._armed = self._armed, None
                self.cuts += 1
                if armed is Cut.REQUEST:
                    lost.set()
                    return
                swallow.set()
            to.write(data)
            await to.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, swallow: asyncio.Event, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(BLOCK):
            while swallow.is_set():
                try:
                    async with asyncio.timeout(QUIET_S):
                        if not await reader.read(BLOCK):
                            break
                except TimeoutError:
                    lost.set()
                    return
            to.write(data)
            await to.drain()
