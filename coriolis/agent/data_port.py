"""Listeners for disk data: on any free port, or on the first free one of a range that a firewall lets through."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from coriolis.errors import InvalidInput, Unavailable

BACKLOG = 128
Bound = TypeVar("Bound")


class PortRange(msgspec.Struct, frozen=True):
    """Ports ``first`` to ``last``, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> PortRange | None:
        """Of ``7700-7799`` or ``7700``; None for an empty text: any free port. InvalidInput otherwise."""
        if not text:
            return None
        first, dash, last = text.partition("-")
        try:
            ports = cls(int(first), int(last) if dash else int(first))
        except ValueError as broken:
            raise InvalidInput(f"data_ports {text[:40]!r} is not FIRST-LAST, e.g. 7700-7799") from broken
        if not 1 <= ports.first <= ports.last <= 65535:
            raise InvalidInput(f"data_ports {text[:40]!r}: ports go from 1 to 65535, the first is not above the last")
        return ports

    def ports(self) -> range:
        return range(self.first, self.last + 1)


def bind_data_socket(host: str, ports: PortRange | None, *, prefer: int = 0) -> socket.socket:
    """A listening TCP socket, non-blocking. Unavailable when every port is taken.

    ``prefer``: a port to try first (the one of an earlier run), if it may be used at all.
    """
    for port in _candidates(ports, prefer):
        try:
            return _listen(host, port)
        except OSError as failed:
            if failed.errno != errno.EADDRINUSE:
                raise Unavailable(f"cannot listen on {host}: {failed.strerror}") from failed
    raise Unavailable(_all_taken(host, ports))


def bind_server(host: str, ports: PortRange | None, bind: Callable[[str], tuple[Bound, int]]) -> tuple[Bound, int]:
    """What ``bind`` gives for the first address (host:port) that it can have.

    For servers that bind by themselves (gRPC): ``bind`` raises Unavailable for a port in use, as ``build_server`` does.
    Unavailable when every port is taken.
    """
    if ports is None:
        return bind(f"{_bracketed(host)}:0")
    for port in ports.ports():
        if _is_taken(host, port):
            continue
        try:
            return bind(f"{_bracketed(host)}:{port}")
        except Unavailable:
            continue  # somebody was faster
    raise Unavailable(_all_taken(host, ports))


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of host:port; brackets around an IPv6 address are removed. InvalidInput without a port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidInput(f"address {address[:80]!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"{_bracketed(host)}:{port}"


def local_host(bind_host: str) -> str:
    """Where this machine itself reaches what listens on ``bind_host``."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(bind_host, bind_host)


def _candidates(ports: PortRange | None, prefer: int) -> Iterable[int]:
    if prefer and (ports is None or prefer in ports.ports()):
        yield prefer
    yield from ports.ports() if ports is not None else (0,)


def _listen(host: str, port: int) -> socket.socket:
    plain = host.removeprefix("[").removesuffix("]")
    listener = socket.socket(socket.AF_INET6 if ":" in plain else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((plain, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_taken(host: str, port: int) -> bool:
    """Cheaper than a server that fails to bind."""
    try:
        _listen(host, port).close()
    except OSError as failed:
        return failed.errno == errno.EADDRINUSE
    return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _all_taken(host: str, ports: PortRange | None) -> str:
    shown = f"{ports.first}-{ports.last}" if ports else "any"
    return f"every data port of {host} ({shown}) is in use; widen data_ports and the firewall's rule"
