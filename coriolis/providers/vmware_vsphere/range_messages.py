"""What a process that reads ranges and its parent say to each other over one stream socket. Pure but for the socket.

The parent sends an order once (``export_messages``), then asks; an answer comes back for each ask, in any order.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from coriolis.errors import CoriolisError, Unavailable, from_code
from coriolis.providers.vmware_vsphere.export_messages import exactly

MAX_RANGE_BYTES = 64 << 20
MAX_COOKIE_BYTES = 8192
MAX_REPLY_BYTES = 4096
"""Kept of an error's page."""
_ASK = struct.Struct("<QQIH")
_TOLD = struct.Struct("<QHI")
_FAILED = 0
"""In the place of an HTTP status: the body is ``[code, message]``."""


class Ask(NamedTuple):
    """One range that is wanted. ``number``: the parent's, which its answer bears."""

    number: int
    offset: int
    length: int
    cookie: str


class Answer(NamedTuple):
    """``body``: of status 206 the whole range, of another one the beginning of what the server says."""

    status: int
    body: bytes


def encode_ask(ask: Ask) -> bytes:
    """Raises ValueError for a cookie or a range that is too long."""
    cookie = ask.cookie.encode("latin-1")
    if len(cookie) > MAX_COOKIE_BYTES or ask.length > MAX_RANGE_BYTES:
        raise ValueError(f"a cookie of {len(cookie)} bytes, a range of {ask.length}")
    return _ASK.pack(ask.number, ask.offset, ask.length, len(cookie)) + cookie


def taken_asks(arrived: bytearray) -> Iterator[Ask]:
    """The whole ones, removed from ``arrived``."""
    while len(arrived) >= _ASK.size:
        number, offset, length, cookie = _ASK.unpack_from(arrived)
        end = _ASK.size + cookie
        if len(arrived) < end:
            return
        text = arrived[_ASK.size : end].decode("latin-1")
        del arrived[:end]
        yield Ask(number, offset, length, text)


def send_answer(link: socket.socket, ask: Ask, status: int, body: bytes | memoryview) -> None:
    """Blocking. Raises OSError when the parent has closed its end."""
    head = _TOLD.pack(ask.number, status, len(body))
    sent = link.sendmsg([head, body])
    if sent < len(head) + len(body):  # a signal came
        link.sendall(memoryview(head + bytes(body))[sent:])


def send_failure(link: socket.socket, ask: Ask, error: CoriolisError) -> None:
    """As ``send_answer``."""
    send_answer(link, ask, _FAILED, json.dumps([error.code, error.message]).encode())


def receive_answer(link: socket.socket) -> tuple[int, Answer | CoriolisError]:
    """(number of the ask, its outcome). Blocking. Raises Unavailable when the process ended."""
    number, status, length = _TOLD.unpack(exactly(link, _TOLD.size))
    if length > MAX_RANGE_BYTES:
        raise Unavailable("the process that reads the disk says what cannot be understood")
    body = exactly(link, length) if length else b""
    if status == _FAILED:
        return number, from_code(*json.loads(body))
    return number, Answer(status, body)
