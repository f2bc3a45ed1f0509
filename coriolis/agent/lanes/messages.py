"""What a task and its lane hosts say to each other: one msgpack message per packet of a SEQPACKET socket pair.

File descriptors travel with the message that names them (SCM_RIGHTS). Hosts are children or threads of the task, so
nothing here is checked as if a stranger had said it.
"""

from __future__ import annotations

import msgspec

from coriolis.rpc.tls_files import TlsFiles

MAX_PACKET_BYTES = 64 << 10
"""A batch names at most 64 zero runs and some cells; everything else is smaller."""
MAX_TEXT_CHARS = 2000
WORDS_AT_ONCE = 8
"""Cells told of in one message, at most: each message costs the task about as much as hashing a cell."""
MAX_SILENCE_S = 0.1
"""What was sent is told after this long, however little it is."""


class HostStart(msgspec.Struct, frozen=True, tag="start", array_like=True):
    """First message to a host's process. ``role``: source or sink; for a sink, ``allowed`` is the identity that
    may send, and ``bind_host`` and ``ports`` (first, last; 0: any) say where its gRPC lanes may listen."""

    role: str
    parent_pid: int
    tls: TlsFiles
    allowed: str = ""
    bind_host: str = ""
    ports: tuple[int, int] = (0, 0)


class AttachDisk(msgspec.Struct, frozen=True, tag="disk", array_like=True):
    """Begin to serve a disk. With it come the disk's descriptor and, for a sink, those of the shared ``touched`` bytes
    and of the journal's lock; without a descriptor the host was given the disk when it was made. ``identity``: of the
    file, "" when it may change."""

    disk_id: str
    size_bytes: int
    generation: int
    label: str = ""
    identity: str = ""


class OpenLane(msgspec.Struct, frozen=True, tag="open", array_like=True):
    """``transport`` is grpc or direct; ``address`` host:port; ``peer`` the sink's identity; ``long_path``: packets take
    milliseconds."""

    lane: int
    disk_id: str
    transport: str
    address: str
    peer: str
    long_path: bool = False


class SendBatch(msgspec.Struct, frozen=True, tag="send", array_like=True):
    """``cells`` and ``zeros``: (first, count). ``level``: of zstd; 0 sends raw."""

    lane: int
    cells: tuple[tuple[int, int], ...]
    zeros: tuple[tuple[int, int], ...]
    level: int


class CloseLane(msgspec.Struct, frozen=True, tag="close", array_like=True):
    """``abort`` cuts the connection; otherwise what was given is sent first."""

    lane: int
    abort: bool = False


class TakeConnection(msgspec.Struct, frozen=True, tag="take", array_like=True):
    """To a sink's host: an accepted connection comes with it."""


class SentCell(msgspec.Struct, frozen=True, array_like=True):
    """A cell, or the zero run of ``count`` cells that begins there (empty digest)."""

    cell: int
    count: int
    digest: bytes
    read_bytes: int
    payload_bytes: int
    wire_bytes: int
    packed: bool


class Sent(msgspec.Struct, frozen=True, tag="sent", array_like=True):
    """What a lane has put on the wire since its last word.

    Times in seconds: ``work_s`` reading, hashing, compressing; ``packing_s`` that of the compressed cells; ``send_s``
    waiting for the wire.
    """

    lane: int
    cells: tuple[SentCell, ...]
    work_s: float
    packing_s: float
    send_s: float


class Serving(msgspec.Struct, frozen=True, tag="serving", array_like=True):
    """A sink's host listens for gRPC lanes; 0: it could not get a port."""

    port: int


class LaneUp(msgspec.Struct, frozen=True, tag="up", array_like=True):
    lane: int


class LaneDown(msgspec.Struct, frozen=True, tag="down", array_like=True):
    """A lane has ended; an empty code means as asked. ``disk_failed``: reading failed, other lanes would too."""

    lane: int
    code: str = ""
    message: str = ""
    disk_failed: bool = False


class WroteFrame(msgspec.Struct, frozen=True, array_like=True):
    """What the receiver must know of a frame that was carried out."""

    kind: int
    cell: int
    count: int
    length: int
    bitmap: int
    digest: bytes


class Wrote(msgspec.Struct, frozen=True, tag="wrote", array_like=True):
    """Frames that were carried out since the last word."""

    disk_id: str
    frames: tuple[WroteFrame, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused", array_like=True):
    """A frame of the right generation was damaged."""

    disk_id: str
    cell: int
    count: int
    reason: str


class DiskFailed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """Writing failed: the task must."""

    disk_id: str
    code: str
    message: str


ToHost = HostStart | AttachDisk | OpenLane | SendBatch | CloseLane | TakeConnection
FromHost = Sent | Serving | LaneUp | LaneDown | Wrote | Refused | DiskFailed


def _to_wire(value: object) -> object:
    return str(value)


def _from_wire(kind: type, value: object) -> object:
    return kind(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_wire)
_to_host = msgspec.msgpack.Decoder(ToHost, dec_hook=_from_wire)
_from_host = msgspec.msgpack.Decoder(FromHost, dec_hook=_from_wire)


def encode_message(message: ToHost | FromHost) -> bytes:
    packet = _encoder.encode(message)
    assert len(packet) <= MAX_PACKET_BYTES, f"{type(message).__name__} has {len(packet)} bytes"
    return packet


def decode_to_host(packet: bytes) -> ToHost:
    message: ToHost = _to_host.decode(packet)
    return message


def decode_from_host(packet: bytes) -> FromHost:
    message: FromHost = _from_host.decode(packet)
    return message
