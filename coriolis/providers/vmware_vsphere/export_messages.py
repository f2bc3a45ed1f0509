"""What the process of an export and its parent say to each other over one stream socket. Pure but for the socket.

To the process goes one order. Back come batches, each with the grains that begin in one cell of the disk, joined to
runs; after the last one the end, or a failure. A run that is whole arrives in one piece and is never copied again.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from coriolis.errors import CoriolisError, Unavailable, from_code
from coriolis.providers.vmware_vsphere.certificate import Trust
from coriolis.providers.vmware_vsphere.stream_vmdk import Grain

CELL_BYTES = 1 << 20
"""What readers ask for at once."""
MAX_GRAINS = 256
"""Of a batch: fewer than the pieces that one system call takes."""
MAX_BATCH_BYTES = 2 << 20
"""A grain that begins in a cell may end up to a mebibyte after it."""
MAX_ORDER_BYTES = 1 << 18
MAX_FAILURE_BYTES = 8192
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<BQI")
_RUN = struct.Struct("<QI")
_RUNS, _END, _FAILURE = 1, 2, 3


class Order(NamedTuple):
    """``stall_s``: of silence before the download counts as stalled; ``parent``: pid of who gives the order;
    ``connections``: for ranges, whose asks bring cookies of their own."""

    host: str
    port: int
    path: str
    cookie: str
    trust: Trust
    stall_s: float
    parent: int
    connections: int = 1


class Batch(NamedTuple):
    """``size_bytes``: of the disk as the stream states it, 0 until it does; ``ended``: the end marker was seen."""

    size_bytes: int
    grains: Sequence[Grain]
    ended: bool = False


def encode_order(order: Order) -> bytes:
    fields = order._asdict()
    fields["trust"] = {**order.trust._asdict(), "only": base64.b64encode(order.trust.only).decode("ascii")}
    text = json.dumps(fields).encode()
    return _LENGTH.pack(len(text)) + text


def receive_order(link: socket.socket) -> Order:
    """Blocking. Raises Unavailable when the other end has closed."""
    (length,) = _LENGTH.unpack(exactly(link, _LENGTH.size))
    if length > MAX_ORDER_BYTES:
        raise Unavailable(f"an order of {length} bytes")
    fields = json.loads(exactly(link, length))
    trust = fields.pop("trust")
    return Order(trust=Trust(**{**trust, "only": base64.b64decode(trust["only"])}), **fields)


def encode_grains(size_bytes: int, grains: Sequence[Grain]) -> list[bytes]:
    """A batch, in pieces; neighbours become one run."""
    runs: list[tuple[int, int]] = []
    for grain in grains:
        if runs and sum(runs[-1]) == grain.offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + len(grain.data))
        else:
            runs.append((grain.offset, len(grain.data)))
    head = _HEAD.pack(_RUNS, size_bytes, len(runs)) + b"".join(_RUN.pack(*run) for run in runs)
    return [head, *(grain.data for grain in grains)]


def encode_end(size_bytes: int, *, ended: bool) -> bytes:
    """The download is over; ``ended``: with its end marker."""
    return _HEAD.pack(_END, size_bytes, ended)


def encode_failure(error: CoriolisError) -> bytes:
    text = json.dumps([error.code, error.message]).encode()
    return _HEAD.pack(_FAILURE, 0, len(text)) + text


def receive_batch(link: socket.socket) -> Batch | None:
    """The next one; None when the download ended without its end marker. Blocking.

    Raises what the process reports, and Unavailable when it ended without a word.
    """
    kind, size_bytes, count = _HEAD.unpack(exactly(link, _HEAD.size))
    if kind == _RUNS and count <= MAX_GRAINS:
        runs = list(_RUN.iter_unpack(exactly(link, count * _RUN.size)))
        if sum(length for _, length in runs) <= MAX_BATCH_BYTES:
            return Batch(size_bytes, [Grain(offset, exactly(link, length)) for offset, length in runs])
    elif kind == _END:
        return Batch(size_bytes, (), ended=True) if count else None
    elif kind == _FAILURE and count <= MAX_FAILURE_BYTES:
        raise from_code(*json.loads(exactly(link, count)))
    raise Unavailable("the process that reads the disk says what cannot be understood")


def exactly(link: socket.socket, length: int) -> bytes:
    """Blocking. Raises Unavailable when the other end has closed."""
    try:
        data = link.recv(length, socket.MSG_WAITALL)
        while len(data) < length:  # a signal came, or the end
            more = link.recv(length - len(data), socket.MSG_WAITALL)
            if not more:
                raise Unavailable("the process that reads the disk ended without a word")
            data += more
    except OSError as error:
        raise Unavailable(f"the process that reads the disk is gone: {error}") from error
    return data
