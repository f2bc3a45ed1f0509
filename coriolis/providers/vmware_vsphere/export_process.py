"""Fetches one disk's export and decodes it: ``python -m coriolis.providers.vmware_vsphere.export_process``.

A process of its own for each disk: in threads of the task's process the decoders of several disks wait for each other
at every grain. Standard input is a socket to the parent; ``export_messages`` are what goes over it. It knows nothing of
leases and logins, loads little, holds about 25 MiB, and is killed when it is not needed any more.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import time
from collections.abc import Iterator

from coriolis.errors import CoriolisError, Denied, Throttled, TimedOut, Unavailable
from coriolis.parent import die_with_parent
from coriolis.providers.vmware_vsphere.export_messages import (
    CELL_BYTES,
    MAX_GRAINS,
    Order,
    encode_end,
    encode_failure,
    encode_grains,
    receive_order,
)
from coriolis.providers.vmware_vsphere.stream_vmdk import Grain, StreamVmdk

PIECE_BYTES = 1 << 18
FLUSH_S = 0.2
"""How long grains may wait for the rest of their cell; also tells the parent that something comes."""


class Outbox:
    """Collects the grains that begin in one cell and sends them together."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._grains: list[Grain] = []
        self._sent_at = time.monotonic()

    def add(self, size_bytes: int, grain: Grain) -> None:
        held = self._grains
        if held and (held[0].offset // CELL_BYTES != grain.offset // CELL_BYTES or len(held) == MAX_GRAINS):
            self.flush(size_bytes)
        self._grains.append(grain)

    def flush(self, size_bytes: int) -> None:
        """Raises OSError when the parent has closed its end."""
        pieces = encode_grains(size_bytes, self._grains)
        sent = self._link.sendmsg(pieces)
        if sent < sum(map(len, pieces)):  # a signal came
            self._link.sendall(memoryview(b"".join(pieces))[sent:])
        self._grains = []
        self._sent_at = time.monotonic()

    def flush_if_late(self, size_bytes: int) -> None:
        if time.monotonic() - self._sent_at > FLUSH_S:
            self.flush(size_bytes)


def stream(order: Order, link: socket.socket) -> None:
    """Send the whole disk. Raises what the download and the decoder raise, OSError when the parent has gone."""
    decoder, out = StreamVmdk(), Outbox(link)
    with _download(order) as read:
        try:
            while piece := read():
                for grain in decoder.feed(piece):
                    out.add(decoder.size_bytes, grain)
                out.flush_if_late(decoder.size_bytes)
        finally:
            out.flush(decoder.size_bytes)  # what came before a failure is good
    link.sendall(encode_end(decoder.size_bytes, ended=decoder.ended))


class _Download:
    """The body of one GET; called for its next piece, empty at the end."""

    def __init__(self, answer: http.client.HTTPResponse, where: str, stall_s: float) -> None:
        self._answer, self._where, self._stall_s = answer, where, stall_s

    def __call__(self) -> bytes:
        try:
            return self._answer.read(PIECE_BYTES)
        except TimeoutError as error:
            raise TimedOut(f"export from {self._where}: nothing came for {self._stall_s:g} s") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(f"export from {self._where} broke off: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _download(order: Order) -> Iterator[_Download]:
    """Raises Unavailable, Denied, Throttled."""
    where = f"{order.host}:{order.port}"
    connection = http.client.HTTPSConnection(
        order.host, order.port, timeout=order.stall_s, context=order.trust.context()
    )
    try:
        try:
            connection.request("GET", order.path, headers={"Cookie": order.cookie})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"export from {where}: {error or type(error).__name__}") from error
        match answer.status:
            case 200:
                yield _Download(answer, where, order.stall_s)
            case 401 | 403:
                raise Denied(f"export from {where} is refused (HTTP {answer.status})")
            case 404:
                raise Unavailable(f"export from {where}: the lease has ended (HTTP 404)")
            case 429 | 503:
                raise Throttled(f"export from {where}: the host is busy (HTTP {answer.status})")
            case other:
                raise Unavailable(f"export from {where} answers HTTP {other}")
    finally:
        connection.close()


def main() -> None:
    """One order, one disk. What is no error of ours ends with a traceback, which the parent takes for Unavailable."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent decides
    link = socket.socket(fileno=0)
    order = receive_order(link)
    die_with_parent(order.parent)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent does not listen any more
        try:
            stream(order, link)
        except CoriolisError as error:
            link.sendall(encode_failure(error))


if __name__ == "__main__":
    main()
