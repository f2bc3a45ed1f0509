"""Gets byte ranges over several HTTPS connections into memory, with few threads and as little Python as can be.

Threads that each read one connection wait for the interpreter most of the time, for a TLS record is only 16 KiB; one
thread that serves all connections is half as fast again. Bodies go from the TLS session straight into their place, and
what is done is told to the event loop in one go. Heads are parsed by ``http.client``.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import queue
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable

from coriolis.errors import CoriolisError, TimedOut, Unavailable

MAX_HEAD_BYTES = 65536
MAX_REPLY_BYTES = 4096
"""Kept of an error's page."""
RECORD_BYTES = 16384
ARRIVING_BYTES = 1 << 18
"""Taken from a socket at once: what is behind it costs one call, not one for each record."""
CONNECTIONS_PER_LOOP = 8
TICK_S = 0.5


class Answer:
    """``body``: of status 206 the whole range, of another one the beginning of what the server says."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body


class Job:
    """One range that is wanted."""

    __slots__ = ("cookie", "future", "length", "offset")

    def __init__(self, offset: int, length: int, cookie: str, future: asyncio.Future[Answer]) -> None:
        self.offset, self.length, self.cookie, self.future = offset, length, cookie, future


class Target:
    """Where all ranges come from. ``timeout_s``: of connecting, and of silence."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, path: str, timeout_s: float) -> None:
        self.host, self.port, self.context, self.path, self.timeout_s = host, port, context, path, timeout_s
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class RangeLoops:
    """Serves ranges in the order of ``get``, over at most ``connections`` connections. Made within an event loop."""

    def __init__(self, target: Target, connections: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._done: deque[tuple[Job, Answer | CoriolisError]] = deque()
        self._told = False
        count = -(-connections // CONNECTIONS_PER_LOOP)
        shares = [connections // count + (number < connections % count) for number in range(count)]
        self._threads = [_Thread(target, self._jobs, self._finish, share) for share in shares]
        self._started = False

    async def get(self, offset: int, length: int, cookie: str) -> Answer:
        """Raises Unavailable, TimedOut."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        job = Job(offset, length, cookie, self._loop.create_future())
        self._jobs.put(job)
        for thread in self._threads:
            if thread.hungry:  # a busy one looks for jobs by itself
                thread.wake()
                break
        return await job.future

    def _finish(self, job: Job, outcome: Answer | CoriolisError) -> None:
        """In any thread."""
        self._done.append((job, outcome))
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._told = False
        while self._done:
            job, outcome = self._done.popleft()
            if job.future.done():
                continue  # whoever waited was cancelled
            if isinstance(outcome, Answer):
                job.future.set_result(outcome)
            else:
                job.future.set_exception(outcome)

    async def close(self) -> None:
        """End the threads; what was not answered fails with Unavailable."""
        for thread in self._threads:
            await asyncio.to_thread(thread.stop)
        with contextlib.suppress(queue.Empty):
            while True:
                self._finish(self._jobs.get_nowait(), Unavailable("the disk was closed"))


class _Connection:
    """A TLS session and the answer that is coming over it."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.create_connection((target.host, target.port), target.timeout_s)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = target.context.wrap_bio(self._arrived, self._leaving, server_hostname=target.host)
        self.job: Job | None = None
        self.keep = True
        self.deadline = 0.0
        self._target = target
        self._begin()
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._shake_hands()
        except BaseException:
            self.socket.close()
            raise

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._leaving.read())
                piece = self.socket.recv(RECORD_BYTES)
                if not piece:
                    raise ConnectionResetError("the connection was closed during the TLS handshake") from None
                self._arrived.write(piece)
            else:
                self.socket.sendall(self._leaving.read())
                return

    def _begin(self) -> None:
        self._head, self._status, self._at = b"", 0, 0
        self._body = io.BytesIO()
        self._view = self._body.getbuffer()

    def ask(self, job: Job) -> None:
        """Send the request. Raises OSError."""
        self._begin()
        self.job = job
        last = job.offset + job.length - 1
        self._tls.write(
            f"GET {self._target.path} HTTP/1.1\r\nHost: {self._target.authority}\r\n"
            f"Range: bytes={job.offset}-{last}\r\n"
            f"Cookie: {job.cookie}\r\nUser-Agent: coriolis\r\nAccept-Encoding: identity\r\n\r\n".encode("ascii")
        )
        self.socket.settimeout(self._target.timeout_s)
        self.socket.sendall(self._leaving.read())
        self.socket.setblocking(False)
        self.deadline = time.monotonic() + self._target.timeout_s

    def advance(self, buffer: bytearray) -> Answer | None:
        """Take what has come, by way of ``buffer``; the answer when it is whole. Raises OSError, HTTPException,
        Unavailable."""
        assert self.job is not None
        self.deadline = time.monotonic() + self._target.timeout_s
        try:
            arrived = self.socket.recv_into(buffer)
        except BlockingIOError:
            return None
        if arrived:
            with memoryview(buffer) as taken:
                self._arrived.write(taken[:arrived])
        else:
            self._arrived.write_eof()
        try:
            while not self._status:
                piece = self._tls.read(RECORD_BYTES)
                if not piece:
                    raise http.client.RemoteDisconnected("the connection was closed without an answer")
                if (answer := self._take_head(piece)) is not None:
                    return answer
            at, end, view = self._at, self.job.length, self._view
            read: Callable[[int, memoryview], int] = self._tls.read  # type: ignore[assignment]  # given a buffer
            try:
                while at < end:
                    count = read(end - at, view[at:])
                    if not count:
                        raise http.client.IncompleteRead(b"", end - at)
                    at += count
            finally:
                self._at = at
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLEOFError as error:
            raise http.client.IncompleteRead(b"", self.job.length - self._at) from error
        view.release()
        return Answer(self._status, self._body.getvalue())

    def _take_head(self, piece: bytes) -> Answer | None:
        """What is no range of the right length is answered at once."""
        assert self.job is not None
        self._head += piece
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > MAX_HEAD_BYTES:
                raise http.client.LineTooLong("head of the answer")
            return None
        first, _, rest = self._head[:end].partition(b"\r\n")
        begun = self._head[end + 4 :]
        words = first.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise http.client.BadStatusLine(ascii(first[:60]))
        status = int(words[1])
        headers = http.client.parse_headers(io.BytesIO(rest + b"\r\n\r\n"))
        if status != http.client.PARTIAL_CONTENT:
            self.keep = False
            return Answer(status, begun[:MAX_REPLY_BYTES])
        stated = headers.get("Content-Length", "")
        if stated != str(self.job.length) or len(begun) > self.job.length:
            raise Unavailable(f"the answer has {stated[:20] or 'no'} bytes instead of {self.job.length}")
        self.keep = headers.get("Connection", "").lower() != "close"
        # its value is the very bytes that the view wrote into: a copy of each range cost a tenth of the thread's time
        self._body = io.BytesIO(bytes(self.job.length))
        self._view = self._body.getbuffer()
        self._view[: len(begun)] = begun
        self._status, self._at = status, len(begun)
        return None


Finish = Callable[[Job, Answer | CoriolisError], None]


class _Thread(threading.Thread):
    """One thread with its share of connections."""

    def __init__(self, target: Target, jobs: queue.SimpleQueue[Job], finish: Finish, connections: int) -> None:
        super().__init__(name="vsphere-ranges", daemon=True)
        self._target, self._jobs, self._finish, self._connections = target, jobs, finish, connections
        self._selector = selectors.DefaultSelector()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._event, selectors.EVENT_READ)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._buffer = bytearray(ARRIVING_BYTES)
        self._stopping = False
        self.hungry = True
        """It has a free connection and found nothing to do."""

    def wake(self) -> None:
        self.hungry = False
        os.eventfd_write(self._event, 1)

    def stop(self) -> None:
        self._stopping = True
        if self.is_alive():
            self.wake()
            self.join()
        for one in (*self._busy, *self._idle):
            self._drop(one, Unavailable("the disk was closed"))
        self._selector.close()
        os.close(self._event)

    def run(self) -> None:
        while not self._stopping:
            self._assign()
            for key, _ in self._selector.select(TICK_S):
                if key.fd == self._event:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._event)
                else:
                    self._advance(key.data)
            now = time.monotonic()
            for one in [one for one in self._busy if one.deadline < now]:
                self._drop(one, TimedOut(f"nothing came for {self._target.timeout_s:.0f} s"))

    def _assign(self) -> None:
        """Give waiting jobs to connections that are free."""
        while len(self._busy) < self._connections:
            self.hungry = True  # before looking: whoever submits afterwards wakes us
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            self.hungry = False
            if not job.future.cancelled():
                self._ask(job)

    def _ask(self, job: Job) -> None:
        one: _Connection | None = None
        try:
            if self._idle:
                one = self._idle.pop()
            else:
                one = _Connection(self._target)
                self._selector.register(one.socket, selectors.EVENT_READ, one)
            self._busy.add(one)
            one.ask(job)
        except (OSError, http.client.HTTPException) as error:
            if one is not None:
                one.job = None
                self._drop(one, None)
            self._finish(job, _unavailable(error))

    def _advance(self, one: _Connection) -> None:
        if one.job is None:  # an idle connection that the server ends
            self._drop(one, None)
            return
        job = one.job
        try:
            answer = one.advance(self._buffer)
        except (OSError, http.client.HTTPException, Unavailable) as error:
            self._drop(one, error)
            return
        if answer is None:
            return
        one.job = None
        self._busy.discard(one)
        if one.keep:
            self._idle.append(one)
        else:
            self._drop(one, None)
        self._finish(job, answer)

    def _drop(self, one: _Connection, error: Exception | None) -> None:
        """End a connection; its job fails with ``error``."""
        self._busy.discard(one)
        with contextlib.suppress(ValueError):
            self._idle.remove(one)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one.socket)
        one.socket.close()
        if one.job is not None and error is not None:
            self._finish(one.job, _unavailable(error))
        one.job = None


def _unavailable(error: Exception) -> CoriolisError:
    if isinstance(error, TimedOut | Unavailable):
        return error
    return Unavailable(str(error) or type(error).__name__)
