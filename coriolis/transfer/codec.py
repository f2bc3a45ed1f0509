"""Frames of the Push stream: a fixed header, for DATA followed by the cell's non-zero blocks.

A cell is sent as the 64 KiB blocks that are not zero, named by a bitmap; the digest (xxh3_128) covers the whole cell
as it shall read at the destination, so it also proves the blocks that were left out.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import msgspec
import numpy as np
import xxhash

from coriolis.errors import Corrupt
from coriolis.transfer.cells import CELL_BYTES, cell_length
from coriolis.transfer.table import DIGEST_BYTES, ZERO_DIGEST

MAGIC = b"CX"
VERSION = 1
BLOCK_BYTES = 64 << 10
BLOCKS_PER_CELL = CELL_BYTES // BLOCK_BYTES
_HEADER = struct.Struct("!2sBBHHQQQI16s")
HEADER_BYTES = _HEADER.size
MAX_FRAME_BYTES = HEADER_BYTES + CELL_BYTES
MAX_ACK_MESSAGE_BYTES = 64 << 10


class FrameKind(enum.IntEnum):
    DATA = 1
    ZERO = 2
    RECEIVED = 3
    DURABLE = 4
    REJECTED = 5


class Frame(msgspec.Struct, frozen=True):
    """``length`` is the logical length of a DATA cell in bytes; ``payload`` holds the blocks named by ``bitmap``."""

    kind: FrameKind
    generation: int
    cell: int
    count: int = 1
    length: int = 0
    bitmap: int = 0
    digest: bytes = ZERO_DIGEST
    payload: bytes | memoryview = b""


def encode(frame: Frame) -> bytes:
    """The frame as one message."""
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        frame.kind,
        frame.bitmap,
        0,
        frame.generation,
        frame.cell,
        frame.count,
        frame.length,
        frame.digest,
    )
    return b"".join((header, frame.payload)) if len(frame.payload) else header


def decode(message: bytes) -> Frame:
    """Parse one message. Raises Corrupt on a wrong magic, version, kind or length; digests are not checked here."""
    if not HEADER_BYTES <= len(message) <= MAX_FRAME_BYTES:
        raise Corrupt(f"a frame of {len(message)} bytes is outside {HEADER_BYTES} to {MAX_FRAME_BYTES}")
    magic, version, kind, bitmap, _, generation, cell, count, length, digest = _HEADER.unpack_from(message)
    if magic != MAGIC or version != VERSION:
        raise Corrupt("not a frame of transfer protocol version 1")
    try:
        known = FrameKind(kind)
    except ValueError as unknown:
        raise Corrupt(f"frame kind {kind} is unknown") from unknown
    payload = memoryview(message)[HEADER_BYTES:]
    if known is FrameKind.DATA:
        _check_data(length, bitmap, len(payload))
    elif len(payload):
        raise Corrupt(f"a {known.name} frame carries {len(payload)} bytes")
    return Frame(known, generation, cell, count, length, bitmap, digest, payload)


def _check_data(length: int, bitmap: int, payload_bytes: int) -> None:
    if not 0 < length <= CELL_BYTES:
        raise Corrupt(f"a cell of {length} bytes is outside 1 to {CELL_BYTES}")
    if bitmap >> -(-length // BLOCK_BYTES):
        raise Corrupt(f"block map {bitmap:#x} goes beyond a cell of {length} bytes")
    expected = sum(size for _, size in present_blocks(bitmap, length))
    if payload_bytes != expected:
        raise Corrupt(f"payload has {payload_bytes} bytes where the block map states {expected}")


def present_blocks(bitmap: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset in the cell, bytes) of each block in ``bitmap``, in order."""
    for index in range(BLOCKS_PER_CELL):
        if bitmap >> index & 1:
            offset = index * BLOCK_BYTES
            yield offset, min(BLOCK_BYTES, length - offset)


def cell_digest(data: bytes | memoryview) -> bytes:
    """xxh3_128 of a cell, 16 bytes big-endian (https://github.com/Cyan4973/xxHash, canonical form)."""
    return xxhash.xxh3_128(data).digest()


def nonzero_blocks(data: bytes | memoryview) -> int:
    """Bitmap of the 64 KiB blocks of ``data`` that hold any non-zero byte; 0 means all zero."""
    length = len(data)
    whole = length // BLOCK_BYTES
    bitmap = 0
    if whole:
        words = np.frombuffer(data, dtype=np.uint64, count=whole * BLOCK_BYTES // 8).reshape(whole, -1)
        # max() over words is the fastest zero test measured (facts: 71 GiB/s)
        for index, largest in enumerate(words.max(axis=1).tolist()):
            if largest:
                bitmap |= 1 << index
    if length % BLOCK_BYTES and any(memoryview(data)[whole * BLOCK_BYTES :]):
        bitmap |= 1 << whole
    return bitmap


def data_frame(generation: int, cell: int, data: bytes) -> Frame:
    """The frame that carries ``data``: ZERO when it is all zero."""
    bitmap = nonzero_blocks(data)
    if not bitmap:
        return Frame(FrameKind.ZERO, generation, cell)
    blocks = list(present_blocks(bitmap, len(data)))
    view = memoryview(data)
    payload = (
        view
        if sum(size for _, size in blocks) == len(data)
        else b"".join(view[offset : offset + size] for offset, size in blocks)
    )
    return Frame(FrameKind.DATA, generation, cell, 1, len(data), bitmap, cell_digest(data), payload)


def cell_content(frame: Frame) -> bytes | memoryview:
    """The whole cell that a DATA frame stands for. Raises Corrupt unless its digest fits."""
    if len(frame.payload) == frame.length:
        content: bytes | memoryview = frame.payload
    else:
        whole = bytearray(frame.length)
        position = 0
        for offset, size in present_blocks(frame.bitmap, frame.length):
            whole[offset : offset + size] = frame.payload[position : position + size]
            position += size
        content = bytes(whole)
    if cell_digest(content) != frame.digest:
        raise Corrupt(f"cell {frame.cell} does not fit its digest")
    return content


def check_bounds(frame: Frame, size_bytes: int, cells: int) -> None:
    """Raises Corrupt when a DATA or ZERO frame names cells or lengths that the disk does not have."""
    if frame.count < 1 or frame.cell >= cells or frame.count > cells - frame.cell:
        raise Corrupt(f"cells {frame.cell}+{frame.count} lie beyond the disk's {cells}")
    if frame.kind is FrameKind.DATA:
        if frame.count != 1:
            raise Corrupt(f"a DATA frame of {frame.count} cells")
        expected = cell_length(frame.cell, size_bytes)
        if frame.length != expected:
            raise Corrupt(f"cell {frame.cell} has {frame.length} bytes where the disk has {expected}")


def encode_acks(frames: list[Frame]) -> list[bytes]:
    """Acks joined into messages of at most 64 KiB."""
    per_message = MAX_ACK_MESSAGE_BYTES // HEADER_BYTES
    encoded = [encode(frame) for frame in frames]
    return [b"".join(encoded[i : i + per_message]) for i in range(0, len(encoded), per_message)]


def decode_acks(message: bytes) -> list[Frame]:
    """The inverse of ``encode_acks``. Raises Corrupt."""
    if len(message) % HEADER_BYTES or not 0 < len(message) <= MAX_ACK_MESSAGE_BYTES:
        raise Corrupt(f"an ack message of {len(message)} bytes")
    frames = [decode(message[i : i + HEADER_BYTES]) for i in range(0, len(message), HEADER_BYTES)]
    for frame in frames:
        if frame.kind not in (FrameKind.RECEIVED, FrameKind.DURABLE, FrameKind.REJECTED):
            raise Corrupt(f"a {frame.kind.name} frame among acks")
    return frames


assert HEADER_BYTES == 52
assert DIGEST_BYTES == 16
