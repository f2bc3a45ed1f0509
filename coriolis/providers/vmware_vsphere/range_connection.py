"""One HTTPS connection that byte ranges come over, one after the other, with as little Python as can be.

A TLS record is only 16 KiB: bodies go from the TLS session straight into their place, and a quarter of a mebibyte is
taken from the socket at once. Heads are parsed by ``http.client``.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable

from coriolis.errors import Unavailable
from coriolis.providers.vmware_vsphere.range_messages import MAX_REPLY_BYTES, Ask

MAX_HEAD_BYTES = 65536
RECORD_BYTES = 16384
ARRIVING_BYTES = 1 << 18
"""Taken from a socket at once: what is behind it costs one call, not one for each record."""


Body = tuple[int, bytes | memoryview]
"""Status, and of 206 the whole range, of another one the beginning of what the server says."""


class Target:
    """Where all ranges come from. ``timeout_s``: of connecting, and of silence."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, path: str, timeout_s: float) -> None:
        self.host, self.port, self.context, self.path, self.timeout_s = host, port, context, path, timeout_s
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connection:
    """A TLS session and the answer that is coming over it."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.create_connection((target.host, target.port), target.timeout_s)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = target.context.wrap_bio(self._arrived, self._leaving, server_hostname=target.host)
        self.ask: Ask | None = None
        self.keep = True
        self.deadline = 0.0
        self._target = target
        self._body = bytearray()
        self._reset()
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

    def _reset(self) -> None:
        self._head, self._status, self._at = b"", 0, 0

    def begin(self, ask: Ask) -> None:
        """Send the request; the answer before it may still be in use. Raises OSError."""
        self._reset()
        self.ask = ask
        last = ask.offset + ask.length - 1
        self._tls.write(
            f"GET {self._target.path} HTTP/1.1\r\nHost: {self._target.authority}\r\n"
            f"Range: bytes={ask.offset}-{last}\r\n"
            f"Cookie: {ask.cookie}\r\nUser-Agent: coriolis\r\nAccept-Encoding: identity\r\n\r\n".encode("ascii")
        )
        self.socket.settimeout(self._target.timeout_s)
        self.socket.sendall(self._leaving.read())
        self.socket.setblocking(False)
        self.deadline = time.monotonic() + self._target.timeout_s

    def advance(self, buffer: bytearray) -> Body | None:
        """Take what has come, by way of ``buffer``; the answer when it is whole, good until the next ``advance``.

        Raises OSError, HTTPException, Unavailable.
        """
        assert self.ask is not None
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
            at, end, view = self._at, self.ask.length, memoryview(self._body)
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
            raise http.client.IncompleteRead(b"", self.ask.length - self._at) from error
        return self._status, memoryview(self._body)[: self.ask.length]

    def _take_head(self, piece: bytes) -> Body | None:
        """What is no range of the right length is answered at once."""
        assert self.ask is not None
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
            return status, begun[:MAX_REPLY_BYTES]
        stated = headers.get("Content-Length", "")
        if stated != str(self.ask.length) or len(begun) > self.ask.length:
            raise Unavailable(f"the answer has {stated[:20] or 'no'} bytes instead of {self.ask.length}")
        self.keep = headers.get("Connection", "").lower() != "close"
        if len(self._body) < self.ask.length:  # one buffer for all: fresh memory costs a page fault each 4 KiB
            self._body = bytearray(self.ask.length)
        self._body[: len(begun)] = begun
        self._status, self._at = status, len(begun)
        return None
