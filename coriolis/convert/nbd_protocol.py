"""The parts of the NBD protocol (fixed newstyle, read-only, simple replies) that the export speaks. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAX_REQUEST_BYTES = 32 << 20
MAX_OPTION_BYTES = 4096
MAX_OPTIONS = 64
MAX_NAME_BYTES = 255

GREETING = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0b11)  # fixed newstyle, no zeroes
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">8sII")
REQUEST = struct.Struct(">IHHQQI")
IHAVEOPT = b"IHAVEOPT"
REQUEST_MAGIC = 0x25609513
FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2
# has flags, read only, several connections see the same content
TRANSMISSION_FLAGS = 1 << 0 | 1 << 1 | 1 << 8

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO = 1, 2, 3, 6, 7
REP_ACK, REP_SERVER, REP_INFO = 1, 2, 3
REP_ERR_UNSUP, REP_ERR_INVALID, REP_ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH = 0, 1, 2, 3
EPERM, EIO, EINVAL = 1, 5, 22


@dataclass(frozen=True, slots=True)
class Export:
    """``preferred_block`` in bytes, a power of two from 512 to 32 MiB."""

    name: str
    size: int
    preferred_block: int


@dataclass(frozen=True, slots=True)
class Request:
    command: int
    cookie: int
    offset: int
    length: int


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


def export_name_reply(export: Export, no_zeroes: bool) -> bytes:
    """The answer to the old NBD_OPT_EXPORT_NAME, which begins transmission."""
    return struct.pack(">QH", export.size, TRANSMISSION_FLAGS) + (b"" if no_zeroes else bytes(124))


def info_replies(option: int, export: Export) -> bytes:
    """The answer to NBD_OPT_GO and NBD_OPT_INFO for an export that exists."""
    size = struct.pack(">HQH", INFO_EXPORT, export.size, TRANSMISSION_FLAGS)
    blocks = struct.pack(">HIII", INFO_BLOCK_SIZE, 1, export.preferred_block, MAX_REQUEST_BYTES)
    replies = (option_reply(option, REP_INFO, size), option_reply(option, REP_INFO, blocks))
    return b"".join(replies) + option_reply(option, REP_ACK)


def list_reply(export: Export) -> bytes:
    name = export.name.encode()
    return option_reply(OPT_LIST, REP_SERVER, struct.pack(">I", len(name)) + name) + option_reply(OPT_LIST, REP_ACK)


def name_in_info(data: bytes) -> str | None:
    """The export name that a GO or INFO option asks for; None when the option is malformed."""
    if len(data) < 6:
        return None
    (length,) = struct.unpack_from(">I", data)
    if length > MAX_NAME_BYTES or len(data) < 6 + length:
        return None
    (count,) = struct.unpack_from(">H", data, 4 + length)
    if len(data) != 6 + length + 2 * count:
        return None
    return data[4 : 4 + length].decode("utf-8", "replace")


def parse_request(raw: bytes) -> Request | None:
    """A request header; None when its magic is wrong, after which the stream cannot be trusted."""
    magic, _flags, command, cookie, offset, length = REQUEST.unpack(raw)
    return Request(command, cookie, offset, length) if magic == REQUEST_MAGIC else None


def refusal(request: Request, size: int) -> int:
    """The error a request deserves without looking at the disk; 0 for a good read."""
    if request.command == CMD_WRITE:
        return EPERM
    if request.command != CMD_READ or not 0 < request.length <= MAX_REQUEST_BYTES:
        return EINVAL
    return EINVAL if request.offset + request.length > size else 0


def simple_reply(cookie: int, error: int) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, cookie)
