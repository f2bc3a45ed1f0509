"""The task's end of reading ranges: starts processes that do it, hands out work and what comes, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections import deque
from collections.abc import Callable

from coriolis.errors import CoriolisError, Unavailable
from coriolis.providers.block.calls import Calls
from coriolis.providers.vmware_vsphere.export_messages import Order, encode_order
from coriolis.providers.vmware_vsphere.range_messages import Answer, Ask, encode_ask, receive_answer

MODULE = "coriolis.providers.vmware_vsphere.range_process"
SOCKET_BUFFER_BYTES = 1 << 20
"""What a process may be ahead of us; the kernel may grant less."""
CONNECTIONS_EACH = 2
"""One thread of Python decrypts less than a fast line brings."""


def shares(connections: int) -> list[int]:
    """Connections of each process."""
    count = max(1, -(-connections // CONNECTIONS_EACH))
    return [connections // count + (number < connections % count) for number in range(count)]


class RangeLinks:
    """Serves ranges over the connections of all its processes, which start with the first range."""

    def __init__(self, orders: list[Order]) -> None:
        self._links = [_Link(order) for order in orders]

    async def get(self, offset: int, length: int, cookie: str) -> Answer:
        """Raises Unavailable, TimedOut."""
        link = min(self._links, key=lambda one: one.load)
        return await link.get(offset, length, cookie)

    async def close(self) -> None:
        """End the processes; what was not answered fails with Unavailable."""
        await asyncio.gather(*(link.close() for link in self._links))


class _Link:
    """One process. A new one takes the place of one that died."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._lock = asyncio.Lock()
        self._running: _Running | None = None

    @property
    def load(self) -> float:
        """Ranges under way for each connection."""
        return len(self._asked) / self._order.connections

    async def get(self, offset: int, length: int, cookie: str) -> Answer:
        self._number += 1
        ask = Ask(self._number, offset, length, cookie)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[ask.number] = future
        try:
            running = self._running
            if running is None or running.over:
                running = await self._fresh()
            running.send(ask)
            return await future
        finally:
            del self._asked[ask.number]

    async def _fresh(self) -> _Running:
        async with self._lock:
            if self._running is not None and self._running.over:
                await self._end()
            if self._running is None:
                self._running = await start(self._order, self._told)
            return self._running

    def _told(self, number: int, outcome: Answer | CoriolisError) -> None:
        """Of number 0: the process has ended, with all that it was asked for."""
        if not number:
            for other in self._asked:
                self._told(other, outcome)
            return
        future = self._asked.get(number)
        if future is None or future.done():
            return  # whoever waited was cancelled
        if isinstance(outcome, Answer):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    async def close(self) -> None:
        async with self._lock:
            await self._end()
        self._told(0, Unavailable("the disk was closed"))

    async def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.end()


Tell = Callable[[int, Answer | CoriolisError], None]


class _Running:
    """A process and the thread that takes its answers; ``tell`` hears of them in the event loop."""

    def __init__(self, process: asyncio.subprocess.Process, link: socket.socket, tell: Tell) -> None:
        self._process, self._link, self._tell = process, link, tell
        self._loop = asyncio.get_running_loop()
        self._calls = Calls(1, "vsphere-ranges")
        self._answers: deque[tuple[int, Answer | CoriolisError]] = deque()
        self._announced = False
        self._receiving = asyncio.create_task(self._calls.run(self._receive))
        self.over = False

    def send(self, ask: Ask) -> None:
        """Raises Unavailable. It blocks no longer than the process takes to hand over an answer."""
        try:
            self._link.sendall(encode_ask(ask))
        except OSError as error:
            raise Unavailable(f"the process that reads the disk is gone: {error}") from error

    def _receive(self) -> None:
        """In its thread, until the process ends."""
        while True:
            try:
                number, outcome = receive_answer(self._link)
            except CoriolisError as error:
                number, outcome = 0, error
            self._answers.append((number, outcome))
            if not self._announced:  # one call for all that has come by then
                self._announced = True
                self._loop.call_soon_threadsafe(self._deliver)
            if not number:
                return

    def _deliver(self) -> None:
        self._announced = False
        while self._answers:
            number, outcome = self._answers.popleft()
            self.over = self.over or not number
            self._tell(number, outcome)

    async def end(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)  # ends a call that waits
        await self._calls.close(self._link.close)
        await self._process.wait()
        await self._receiving


async def start(order: Order, tell: Tell) -> _Running:
    """A process that has its order."""
    ours, theirs = socket.socketpair()
    with theirs:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, stdin=theirs.fileno(), stdout=2)
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which shows in what comes
        ours.sendall(encode_order(order))
    return _Running(process, ours, tell)
