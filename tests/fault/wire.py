"""A TCP proxy on loopback that cuts, damages or swallows what goes through it, at exact bytes."""

from __future__ import annotations

import asyncio
from typing import Literal

BLOCK = 64 << 10


class Wire:
    """``async with Wire() as wire``: the road of lanes (``address``), or a proxy to ``target`` at ``wire.port``.

    Bytes are counted in both directions and over all connections; ``cut_at`` and ``flip_at`` are byte numbers.
    """

    path = "dialled"

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.cut_at: int | None = None
        self.flip_at: int | None = None
        self.swallow_from: int | None = None
        """The connection that carries this byte delivers nothing more; it stays open."""
        self.bytes = 0
        self.cuts = self.flips = 0
        self.swallowed_bytes = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def address(self, service: Literal["grpc", "direct"], port: int) -> str:
        """Meets the Road of a source: whatever the service, the way goes through here."""
        self.target = port
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        pumps = [asyncio.create_task(self._pump(reader, forth)), asyncio.create_task(self._pump(back, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for stream in (forth, writer):
                if stream.transport.get_write_buffer_size():
                    stream.transport.abort()
                stream.close()

    async def _pump(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        swallowing = False
        while data := await reader.read(BLOCK):
            start, self.bytes = self.bytes, self.bytes + len(data)
            if self.cut_at is not None and self.cut_at < self.bytes:
                to.write(data[: max(0, self.cut_at - start)])
                self.cut_at = None
                self.cuts += 1
                to.transport.abort()
                return
            if self.flip_at is not None and self.flip_at < self.bytes:
                changed = bytearray(data)
                changed[max(0, self.flip_at - start)] ^= 1 << self.flip_at % 8
                data, self.flip_at = bytes(changed), None
                self.flips += 1
            if self.swallow_from is not None and self.swallow_from < self.bytes:
                self.swallow_from, swallowing = None, True
            if swallowing:
                self.swallowed_bytes += len(data)
                continue
            to.write(data)
            await to.drain()
