"""Gets byte ranges over several HTTPS connections into memory, with few threads and as little Python as can be.

Threads that each read one connection wait for the interpreter most of the time, for a TLS record is only 16 KiB; two
threads that serve half of the connections each are half as fast again. Bodies go from the TLS session straight into
their place. Heads are parsed by ``http.client``.
"""

from __future__ import annotations

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
from concurrent.futures import Future

from coriolis.errors import TimedOut, Unavailable

MAX_HEAD_BYTES = 65536
MAX_REPLY_BYTES = 4096
"""Kept of an error's page."""
RECORD_BYTES = 16384
LOOPS = 2
TICK_S = 0.5


class Answer:
    """``body``: of status 206 the whole range, of another one the beginning of what the server says."""

    __slots__ = ("body", "status")

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body


class Job:
    """One range that is wanted; ``future`` gets an ``Answer``, Unavailable or TimedOut."""

    __slots__ = ("cookie", "future", "length", "offset")

    def __init__(self, offset: int, length: int, cookie: str) -> None:
        self.offset, self.length, self.cookie = offset, length, cookie
        self.future: Future[Answer] = Future()


class Target:
    """Where all ranges come from. ``timeout_s``: of connecting, and of silence."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, path: str, timeout_s: float) -> None:
        self.host, self.port, self.context, self.path, self.timeout_s = host, port, context, path, timeout_s
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class RangeLoops:
    """Serves jobs in the order of ``submit``, over at most ``connections`` connections. ``close`` ends the threads."""

    def __init__(self, target: Target, connections: int) -> None:
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        count = min(LOOPS, connections)
        shares = [connections // count + (number < connections % count) for number in range(count)]
        self._loops = [_Loop(target, self._jobs, share) for share in shares]
        self._started = False

    def submit(self, job: Job) -> Future[Answer]:
        if not self._started:
            self._started = True
            for loop in self._loops:
                loop.start()
        self._jobs.put(job)
        for loop in self._loops:
            if loop.hungry:  # a busy one looks for jobs by itself
                loop.wake()
                break
        return job.future

    def close(self) -> None:
        """Blocking; what was not answered fails with Unavailable."""
        for loop in self._loops:
            loop.stop()
        with contextlib.suppress(queue.Empty):
            while True:
                _fail(self._jobs.get_nowait(), Unavailable("the disk was closed"))


def _fail(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


class _Connection:
    """A TLS session and the answer that is coming over it."""

    def __init__(self, target: Target) -> None:
        raw = socket.create_connection((target.host, target.port), target.timeout_s)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = target.context.wrap_socket(raw, server_hostname=target.host)
        except BaseException:
            raw.close()
            raise
        self.job: Job | None = None
        self.keep = True
        self.deadline = 0.0
        self._target = target
        self._begin()

    def _begin(self) -> None:
        self._head, self._status, self._at = b"", 0, 0
        self._body = bytearray()
        self._view = memoryview(self._body)

    def ask(self, job: Job) -> None:
        """Send the request. Raises OSError."""
        self._begin()
        self.job = job
        self.socket.settimeout(self._target.timeout_s)
        last = job.offset + job.length - 1
        self.socket.sendall(
            f"GET {self._target.path} HTTP/1.1\r\nHost: {self._target.authority}\r\n"
            f"Range: bytes={job.offset}-{last}\r\n"
            f"Cookie: {job.cookie}\r\nUser-Agent: coriolis\r\nAccept-Encoding: identity\r\n\r\n".encode("ascii")
        )
        self.socket.setblocking(False)
        self.deadline = time.monotonic() + self._target.timeout_s

    def advance(self) -> Answer | None:
        """Take what has come; the answer when it is whole. Raises OSError, HTTPException, Unavailable."""
        assert self.job is not None
        self.deadline = time.monotonic() + self._target.timeout_s
        try:
            while not self._status:
                piece = self.socket.recv(RECORD_BYTES)
                if not piece:
                    raise http.client.RemoteDisconnected("the connection was closed without an answer")
                if (answer := self._take_head(piece)) is not None:
                    return answer
            at, end, view, read = self._at, self.job.length, self._view, self.socket.recv_into
            try:
                while at < end:
                    count = read(view[at:])
                    if not count:
                        raise http.client.IncompleteRead(b"", end - at)
                    at += count
            finally:
                self._at = at
        except (ssl.SSLWantReadError, BlockingIOError):
            return None
        return Answer(self._status, bytes(self._body))

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
        self._body = bytearray(self.job.length)
        self._view = memoryview(self._body)
        self._view[: len(begun)] = begun
        self._status, self._at = status, len(begun)
        return None


class _Loop(threading.Thread):
    """One thread with its share of connections."""

    def __init__(self, target: Target, jobs: queue.SimpleQueue[Job], connections: int) -> None:
        super().__init__(name="vsphere-ranges", daemon=True)
        self._target, self._jobs, self._connections = target, jobs, connections
        self._selector = selectors.DefaultSelector()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._event, selectors.EVENT_READ)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
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
            if job.future.set_running_or_notify_cancel():
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
                self._drop(one, error)
            _fail(job, _unavailable(error))

    def _advance(self, one: _Connection) -> None:
        if one.job is None:  # an idle connection that the server ends
            self._drop(one, None)
            return
        job = one.job
        try:
            answer = one.advance()
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
        job.future.set_result(answer)

    def _drop(self, one: _Connection, error: Exception | None) -> None:
        """End a connection; its job fails with ``error``."""
        self._busy.discard(one)
        with contextlib.suppress(ValueError):
            self._idle.remove(one)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one.socket)
        one.socket.close()
        if one.job is not None and error is not None:
            _fail(one.job, _unavailable(error))
        one.job = None


def _unavailable(error: Exception) -> Exception:
    if isinstance(error, TimedOut | Unavailable):
        return error
    return Unavailable(str(error) or type(error).__name__)
