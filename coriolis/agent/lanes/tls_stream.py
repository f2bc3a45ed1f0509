"""TLS 1.3 over plain sockets with the mesh's certificates: the ``direct`` transport.

The receiving side reads the socket in large pieces and decrypts from memory: OpenSSL by itself would ask the kernel
twice for every record of 16 KiB (measured: a quarter of the sink's CPU time).
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

from coriolis.errors import Denied, Unavailable
from coriolis.rpc.identity import Identity, identity_dns_name
from coriolis.rpc.tls_files import TlsFiles

CONNECT_TIMEOUT_S = 10.0
SILENCE_S = 60.0
"""A peer that takes or sends nothing for this long is gone."""
READ_BYTES = 256 << 10
_SPIFFE = "spiffe://"


def client_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return _strict(context, tls)


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # nobody resumes a session: tickets would only be bytes that a one-way lane never reads
    context.num_tickets = 0
    return _strict(context, tls)


def _strict(context: ssl.SSLContext, tls: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.cert, tls.key)
    return context


def tune(connection: socket.socket) -> None:
    """Frames go out at once, and a peer whose host is gone is noticed (tcp(7))."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_S * 1000))


def dial(
    address: str,
    tls: TlsFiles,
    peer: Identity | str,
    *,
    long_path: bool = False,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> ssl.SSLSocket:
    """A connection to exactly ``peer``. Raises Unavailable, Denied."""
    host, _, port = address.rpartition(":")
    try:
        plain = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    except OSError as failed:
        raise Unavailable(f"no connection to {address}: {failed}") from failed
    try:
        tune(plain)
        if long_path:
            _prefer_bbr(plain)
        secure = client_context(tls).wrap_socket(plain, server_hostname=identity_dns_name(peer))
        secure.settimeout(SILENCE_S)
        return secure
    except ssl.SSLCertVerificationError as wrong:
        plain.close()
        raise Denied(f"{address} is not {peer}: {wrong.verify_message}") from wrong
    except OSError as failed:
        plain.close()
        raise Unavailable(f"no TLS with {address}: {failed}") from failed


def _prefer_bbr(connection: socket.socket) -> None:
    """Loss that is no congestion then costs no speed: 0.1% held a connection of 50 ms at 11 Mbit/s with cubic."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    except OSError:
        return  # this kernel has none; more lanes help as well


class TlsReceiver:
    """The receiving end of a lane. Blocking; raises Unavailable when the connection breaks."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self._socket = connection
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._raw = memoryview(bytearray(READ_BYTES))
        connection.settimeout(SILENCE_S)
        tune(connection)

    def wait_at_most(self, seconds: float) -> None:
        """For each piece of the peer's words from now on."""
        self._socket.settimeout(seconds)

    def handshake(self) -> str:
        """The client's SPIFFE URI. Raises Denied without exactly one."""
        self._until_done(self._tls.do_handshake)
        # a sequence of (kind, value); typeshed allows more for other members of the same dictionary
        names: Any = (self._tls.getpeercert() or {}).get("subjectAltName", ())
        found = [value for kind, value in names if kind == "URI" and value.startswith(_SPIFFE)]
        if len(found) != 1:
            raise Denied("a connection came without a certificate of this mesh")
        return str(found[0])

    def read_into(self, view: memoryview) -> bool:
        """Fill ``view``. False when the peer ended in order before its first byte."""
        position, wanted = 0, len(view)
        while position < wanted:
            try:
                # with a buffer it returns a count, whatever typeshed says
                got = int(self._tls.read(wanted - position, view[position:]))
            except ssl.SSLWantReadError:
                if not self._fill():
                    raise Unavailable("a lane's connection was cut") from None
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                got = 0
            except ssl.SSLError as broken:
                raise Unavailable(f"a lane's connection is damaged: {broken.reason}") from broken
            if not got:
                if position:
                    raise Unavailable("a lane ended in the middle of a frame")
                return False
            position += got
        return True

    def more_comes(self) -> bool:
        """Something more has arrived already."""
        if self._in.pending or self._tls.pending():
            return True
        poll = select.poll()  # select(2) knows no descriptor above 1023
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def answer(self, data: bytes) -> None:
        """Send a few bytes."""
        self._tls.write(data)
        self._send_pending()

    def _until_done(self, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._send_pending()
                if not self._fill():
                    raise Unavailable("a connection ended during its TLS handshake") from None
            except ssl.SSLError as refused:
                self._send_pending()  # the alert tells the peer why
                raise Denied(f"TLS handshake refused: {refused.reason}") from refused
            else:
                self._send_pending()
                return

    def _fill(self) -> bool:
        try:
            count = self._socket.recv_into(self._raw)
        except OSError as broken:
            raise Unavailable(f"a lane's connection broke: {broken}") from broken
        if count:
            self._in.write(self._raw[:count])
        return count > 0

    def _send_pending(self) -> None:
        try:
            if self._out.pending:
                self._socket.sendall(self._out.read())
        except OSError as broken:
            raise Unavailable(f"a lane's connection broke: {broken}") from broken

    def close(self) -> None:
        self._socket.close()
