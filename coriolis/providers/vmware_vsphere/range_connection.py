"""One HTTPS connection that gets byte ranges into memory of its own, with as little Python as can be.

``http.client`` reads bodies through three layers of buffers, which costs more than the decryption; here a body goes
straight from the TLS session into its place. Heads are still parsed by ``http.client``.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl

from coriolis.errors import Unavailable

MAX_HEAD_BYTES = 65536
MAX_REPLY_BYTES = 4096
"""Kept of an error's page."""


class RangeConnection:
    """Blocking; used by one thread at a time. Raises OSError, http.client.HTTPException and Unavailable."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> None:
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raw = socket.create_connection((host, port), timeout_s)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
        self.reusable = True

    def get(self, path: str, offset: int, length: int, cookie: str) -> tuple[int, bytes]:
        """(status, body); of a partial answer exactly ``length`` bytes, of another one its beginning."""
        self.reusable = False  # until an answer was read to its end
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {self._authority}\r\nRange: bytes={offset}-{offset + length - 1}\r\n"
            f"Cookie: {cookie}\r\nUser-Agent: coriolis\r\nAccept-Encoding: identity\r\n\r\n"
        )
        self._socket.sendall(head.encode("ascii"))
        status, headers, begun = self._head()
        if status != http.client.PARTIAL_CONTENT:
            return status, begun[:MAX_REPLY_BYTES]
        stated = headers.get("Content-Length", "")
        if not stated.isdigit() or int(stated) != length or len(begun) > length:
            raise Unavailable(f"the answer has {stated[:20] or 'no'} bytes instead of {length}")
        body = self._body(begun, length)
        self.reusable = headers.get("Connection", "").lower() != "close"
        return status, body

    def _head(self) -> tuple[int, http.client.HTTPMessage, bytes]:
        """(status, headers, what came of the body with them)."""
        got = b""
        while (end := got.find(b"\r\n\r\n")) < 0:
            if len(got) > MAX_HEAD_BYTES:
                raise http.client.LineTooLong("head of the answer")
            piece = self._socket.recv(16384)
            if not piece:
                raise http.client.RemoteDisconnected("the connection was closed without an answer")
            got += piece
        first, _, rest = got[:end].partition(b"\r\n")
        words = first.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise http.client.BadStatusLine(ascii(first[:60]))
        return int(words[1]), http.client.parse_headers(io.BytesIO(rest + b"\r\n\r\n")), got[end + 4 :]

    def _body(self, begun: bytes, length: int) -> bytes:
        if len(begun) == length:
            return begun
        buffer = bytearray(length)
        buffer[: len(begun)] = begun
        with memoryview(buffer) as view:
            at, read = len(begun), self._socket.recv_into
            while at < length:
                count = read(view[at:])
                if not count:
                    raise http.client.IncompleteRead(b"", length - at)
                at += count
        return bytes(buffer)

    def close(self) -> None:
        self._socket.close()
