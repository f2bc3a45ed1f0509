"""Frames of a lane: a fixed header, for DATA followed by the cell's non-zero blocks, raw or as one zstd frame.

A cell is sent as the 64 KiB blocks that are not zero, named by a bitmap; the digest (xxh3_128) covers the whole cell
as it shall read at the destination, so it also proves the blocks that were left out. The header carries a checksum of
its own: a damaged cell number must not put good bytes in the wrong place.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import msgspec
import numpy as np
import xxhash
import zstandard

from coriolis.errors import Corrupt
from coriolis.transfer.cells import CELL_BYTES, cell_length
from coriolis.transfer.table import DIGEST_BYTES, ZERO_DIGEST

MAGIC = b"CX"
VERSION = 2
BLOCK_BYTES = 64 << 10
BLOCKS_PER_CELL = CELL_BYTES // BLOCK_BYTES
_FIELDS = struct.Struct("!2sBBHBxQQQII16s")
_CHECK = struct.Struct("!Q")
HEADER_BYTES = _FIELDS.size + _CHECK.size
MAX_FRAME_BYTES = HEADER_BYTES + CELL_BYTES
MAX_ACK_MESSAGE_BYTES = 64 << 10


class FrameKind(enum.IntEnum):
    DATA = 1
    ZERO = 2
    RECEIVED = 3
    DURABLE = 4
    REJECTED = 5


class Encoding(enum.IntEnum):
    RAW = 0
    ZSTD = 1


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
    encoding: Encoding = Encoding.RAW


class Header(msgspec.Struct, frozen=True):
    """What the first 64 bytes of a frame say; ``payload_bytes`` more follow."""

    kind: FrameKind
    generation: int
    cell: int
    count: int
    length: int
    bitmap: int
    digest: bytes
    encoding: Encoding
    payload_bytes: int


def encode_header(frame: Frame) -> bytes:
    """The 64 bytes that go before the payload."""
    fields = _FIELDS.pack(
        MAGIC,
        VERSION,
        frame.kind,
        frame.bitmap,
        frame.encoding,
        frame.generation,
        frame.cell,
        frame.count,
        frame.length,
        len(frame.payload),
        frame.digest,
    )
    return fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))


def encode(frame: Frame) -> bytes:
    """The frame as one message."""
    header = encode_header(frame)
    return b"".join((header, frame.payload)) if len(frame.payload) else header


def decode_header(message: bytes | memoryview) -> Header:
    """Parse the first 64 bytes. Raises Corrupt on a wrong magic, version, checksum, kind or length."""
    if len(message) < HEADER_BYTES:
        raise Corrupt(f"a frame of {len(message)} bytes is shorter than its header")
    magic, version, kind, bitmap, encoding, generation, cell, count, length, payload, digest = _FIELDS.unpack_from(
        message
    )
    if magic != MAGIC or version != VERSION:
        raise Corrupt(f"not a frame of transfer protocol version {VERSION}")
    if xxhash.xxh3_64_intdigest(message[: _FIELDS.size]) != _CHECK.unpack_from(message, _FIELDS.size)[0]:
        raise Corrupt("a frame's header does not fit its checksum")
    try:
        header = Header(FrameKind(kind), generation, cell, count, length, bitmap, digest, Encoding(encoding), payload)
    except ValueError as unknown:
        raise Corrupt(f"frame kind {kind} or encoding {encoding} is unknown") from unknown
    if payload > CELL_BYTES:
        raise Corrupt(f"a payload of {payload} bytes is larger than a cell")
    if header.kind is FrameKind.DATA:
        _check_data(header)
    elif payload:
        raise Corrupt(f"a {header.kind.name} frame carries {payload} bytes")
    return header


def _check_data(header: Header) -> None:
    length, bitmap = header.length, header.bitmap
    if not 0 < length <= CELL_BYTES:
        raise Corrupt(f"a cell of {length} bytes is outside 1 to {CELL_BYTES}")
    if bitmap >> -(-length // BLOCK_BYTES):
        raise Corrupt(f"block map {bitmap:#x} goes beyond a cell of {length} bytes")
    stated = blocks_bytes(bitmap, length)
    wrong = header.payload_bytes != stated if header.encoding is Encoding.RAW else header.payload_bytes >= stated
    if wrong:
        raise Corrupt(f"payload has {header.payload_bytes} bytes where the block map states {stated}")


def with_payload(header: Header, payload: bytes | memoryview) -> Frame:
    """The frame of a header and its payload. Raises Corrupt when the payload has another length."""
    if len(payload) != header.payload_bytes:
        raise Corrupt(f"a payload of {len(payload)} bytes came where the header states {header.payload_bytes}")
    return Frame(
        header.kind,
        header.generation,
        header.cell,
        header.count,
        header.length,
        header.bitmap,
        header.digest,
        payload,
        header.encoding,
    )


def decode(message: bytes | memoryview) -> Frame:
    """Parse one message. Raises Corrupt; digests are not checked here."""
    if len(message) > MAX_FRAME_BYTES:
        raise Corrupt(f"a frame of {len(message)} bytes is larger than {MAX_FRAME_BYTES}")
    return with_payload(decode_header(message), memoryview(message)[HEADER_BYTES:])


def blocks_bytes(bitmap: int, length: int) -> int:
    """Bytes of the blocks named by ``bitmap`` in a cell of ``length``."""
    whole = bitmap.bit_count() * BLOCK_BYTES
    last = -(-length // BLOCK_BYTES) - 1
    return whole - (BLOCK_BYTES * (last + 1) - length) if bitmap >> last & 1 else whole


def present_blocks(bitmap: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset in the cell, bytes) of each stretch of adjacent blocks in ``bitmap``, in order."""
    blocks = -(-length // BLOCK_BYTES)
    index = 0
    while index < blocks:
        if not bitmap >> index & 1:
            index += 1
            continue
        first = index
        while index < blocks and bitmap >> index & 1:
            index += 1
        offset = first * BLOCK_BYTES
        yield offset, min(index * BLOCK_BYTES, length) - offset


def cell_digest(data: bytes | bytearray | memoryview) -> bytes:
    """xxh3_128 of a cell, 16 bytes big-endian (https://github.com/Cyan4973/xxHash, canonical form)."""
    return xxhash.xxh3_128_digest(data)


def nonzero_blocks(data: bytes | bytearray | memoryview) -> int:
    """Bitmap of the 64 KiB blocks of ``data`` that hold any non-zero byte; 0 means all zero."""
    length = len(data)
    whole = length // BLOCK_BYTES
    bitmap = 0
    if whole:
        words = np.frombuffer(data, dtype=np.uint64, count=whole * BLOCK_BYTES // 8).reshape(whole, -1)
        # the first word tells for nearly every block of data; max() over words is the fastest zero test measured
        for index, first in enumerate(words[:, 0].tolist()):
            if first or words[index].max():
                bitmap |= 1 << index
    if length % BLOCK_BYTES and any(memoryview(data)[whole * BLOCK_BYTES :]):
        bitmap |= 1 << whole
    return bitmap


def data_frame(
    generation: int, cell: int, data: bytes | bytearray | memoryview, compressor: zstandard.ZstdCompressor | None = None
) -> Frame:
    """The frame that carries ``data``: ZERO when it is all zero; compressed where that saves a tenth or more."""
    bitmap = nonzero_blocks(data)
    if not bitmap:
        return Frame(FrameKind.ZERO, generation, cell)
    view = memoryview(data)
    stated = blocks_bytes(bitmap, len(data))
    payload: bytes | memoryview = (
        view
        if stated == len(data)
        else b"".join(view[offset : offset + size] for offset, size in present_blocks(bitmap, len(data)))
    )
    encoding = Encoding.RAW
    if compressor is not None:
        packed = compressor.compress(payload)
        if len(packed) * 10 <= stated * 9:
            payload, encoding = packed, Encoding.ZSTD
    return Frame(FrameKind.DATA, generation, cell, 1, len(data), bitmap, cell_digest(data), payload, encoding)


def plain_payload(frame: Frame) -> bytes | memoryview:
    """The blocks of a DATA frame, decompressed. Raises Corrupt, and holds no more than a cell whatever is claimed."""
    if frame.encoding is Encoding.RAW:
        return frame.payload
    stated = blocks_bytes(frame.bitmap, frame.length)
    try:
        # the library trusts a size that the zstd frame states, so that is looked at first
        if zstandard.frame_content_size(frame.payload) != stated:
            raise Corrupt(f"cell {frame.cell}: the compressed data does not state {stated} bytes")
        # one for each frame: two lanes' threads in one would end the process, and it costs 7 of 800 us
        plain = zstandard.ZstdDecompressor().decompress(
            frame.payload, max_output_size=stated, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as broken:
        raise Corrupt(f"cell {frame.cell}: the compressed data is damaged: {broken}") from broken
    if len(plain) != stated:
        raise Corrupt(f"cell {frame.cell}: {len(plain)} bytes came out where the block map states {stated}")
    return plain


def cell_content(frame: Frame) -> bytes | memoryview:
    """The whole cell that a DATA frame stands for. Raises Corrupt unless its digest fits."""
    payload = plain_payload(frame)
    if len(payload) == frame.length:
        content: bytes | memoryview = payload
    else:
        whole = bytearray(frame.length)
        position = 0
        for offset, size in present_blocks(frame.bitmap, frame.length):
            whole[offset : offset + size] = payload[position : position + size]
            position += size
        content = memoryview(whole)
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


assert HEADER_BYTES == 64
assert DIGEST_BYTES == 16
