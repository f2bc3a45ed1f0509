"""The task's end of a lane host: starts it as a thread or a process, sends without blocking, hands out what comes."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from coriolis.agent.lanes.messages import (
    MAX_PACKET_BYTES,
    FromHost,
    HostStart,
    Serving,
    ToHost,
    decode_from_host,
    encode_message,
)

log = structlog.get_logger(__name__)

PACKETS_PER_TURN = 64
"""Messages taken before the event loop's other work gets its turn."""
STOP_WAIT_S = 5.0
SOCKET_BUFFER_BYTES = 1 << 20

Take = Callable[[FromHost], None]


class HostLink:
    """One host. ``takers``: who gets a message, by its lane or disk. ``on_end`` are called if it ends by itself.

    ``serving`` gets the port where the host takes gRPC lanes, or 0 if it ends before it says so.
    """

    def __init__(self) -> None:
        self.takers: dict[int | str, Take] = {}
        self.on_end: list[Callable[[], None]] = []
        self.serving: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self._ours.setblocking(False)
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._process: asyncio.subprocess.Process | None = None
        self._thread: threading.Thread | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._ours, self._drain)

    @property
    def ended(self) -> bool:
        return self._ours.fileno() < 0

    async def start_process(self, start: HostStart) -> None:
        """The host as ``python -m coriolis.agent.lanes.process``; it dies with us."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "coriolis.agent.lanes.process", stdin=self._theirs.fileno(), stdout=2
        )
        self._theirs.close()
        self.send(start)

    def start_thread(self, run: Callable[[socket.socket], None]) -> None:
        """The host as a thread of this process: for disks that only this process can reach."""
        theirs = self._theirs

        def serve() -> None:
            with theirs:
                run(theirs)

        self._thread = threading.Thread(target=serve, name="lane-host", daemon=True)
        self._thread.start()

    def send(self, message: ToHost, descriptors: Sequence[int] = ()) -> None:
        """In order; never blocks. Without effect after the end."""
        if self.ended:
            return
        packet = encode_message(message)
        # the caller may close its descriptors before a full socket takes ours
        copies = [os.dup(number) for number in descriptors]
        self._waiting.append((packet, copies))
        self._push()

    def _push(self) -> None:
        while self._waiting:
            packet, descriptors = self._waiting[0]
            try:
                socket.send_fds(self._ours, [packet], descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._ours, self._push)
                return
            except OSError:
                self._end()
                return
            self._waiting.popleft()
            for number in descriptors:
                os.close(number)
        self._loop.remove_writer(self._ours)

    def _drain(self) -> None:
        for _ in range(PACKETS_PER_TURN):
            try:
                packet = self._ours.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._end()
                return
            message = decode_from_host(packet)
            if isinstance(message, Serving):
                self._serves(message.port)
                continue
            take = self.takers.get(getattr(message, "lane", -1)) or self.takers.get(getattr(message, "disk_id", ""))
            if take is not None:
                take(message)

    def _serves(self, port: int) -> None:
        if not self.serving.done():
            self.serving.set_result(port)

    def _end(self) -> None:
        if self.ended:
            return
        self._close_socket()
        log.warning("a lane host ended by itself", pid=self._process.pid if self._process else 0)
        for tell in self.on_end:
            tell()

    def _close_socket(self) -> None:
        if self.ended:
            return
        self._serves(0)
        self._loop.remove_reader(self._ours)
        self._loop.remove_writer(self._ours)
        self._ours.close()
        while self._waiting:
            for number in self._waiting.popleft()[1]:
                os.close(number)

    async def close(self) -> None:
        """End the host and wait: nothing of it may touch a disk afterwards."""
        self._close_socket()
        if self._process is not None:
            try:
                async with asyncio.timeout(STOP_WAIT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        elif self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_WAIT_S)
        else:
            self._theirs.close()
