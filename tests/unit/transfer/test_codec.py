"""Frames: what is encoded is decoded, and nothing malformed passes."""

from __future__ import annotations

import random
import struct

import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Corrupt
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import (
    BLOCK_BYTES,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Encoding,
    Frame,
    FrameKind,
    blocks_bytes,
    cell_content,
    check_bounds,
    data_frame,
    decode,
    decode_acks,
    decode_header,
    encode,
    encode_acks,
    encode_header,
    nonzero_blocks,
    plain_payload,
    with_payload,
)

lengths = st.one_of(
    st.integers(1, 2 * BLOCK_BYTES), st.sampled_from([511, 512, CELL_BYTES - 1, CELL_BYTES, BLOCK_BYTES])
)


levels = st.sampled_from([None, 1, 3])


def compressor(level: int | None) -> zstandard.ZstdCompressor | None:
    return None if level is None else zstandard.ZstdCompressor(level=level, write_content_size=True)


@given(lengths, st.sets(st.integers(0, CELL_BYTES - 1), max_size=4), st.integers(1, 255), levels)
def test_a_cell_survives_the_wire_whatever_blocks_it_has(
    length: int, marks: set[int], value: int, level: int | None
) -> None:
    cell = bytearray(length)
    for mark in marks:
        cell[mark % length] = value
    message = encode(data_frame(7, 3, bytes(cell), compressor(level)))
    frame = decode(message)
    assert with_payload(decode_header(message), message[HEADER_BYTES:]) == frame, "a lane reads it in two parts"
    if marks:
        assert frame.kind is FrameKind.DATA
        assert bytes(cell_content(frame)) == bytes(cell)
        assert blocks_bytes(frame.bitmap, length) <= len({m % length // BLOCK_BYTES for m in marks}) * BLOCK_BYTES
        assert len(frame.payload) <= blocks_bytes(frame.bitmap, length)
    else:
        assert frame.kind is FrameKind.ZERO


def test_compression_is_used_where_it_saves_a_tenth_and_nowhere_else() -> None:
    rng = random.Random(1)
    text = b"".join(rng.choice([b"lorem ", b"ipsum ", b"dolor "]) for _ in range(20_000))
    noise = rng.randbytes(len(text))
    assert data_frame(1, 0, text, compressor(1)).encoding is Encoding.ZSTD
    assert data_frame(1, 0, text).encoding is Encoding.RAW
    assert data_frame(1, 0, noise, compressor(3)).encoding is Encoding.RAW


@given(st.integers(0, CELL_BYTES - 1))
def test_one_non_zero_byte_is_never_taken_for_zero(position: int) -> None:
    cell = bytearray(CELL_BYTES)
    cell[position] = 1
    assert nonzero_blocks(bytes(cell)) == 1 << position // BLOCK_BYTES


TEXT = b"one two three four " * 4000


@pytest.mark.parametrize("level", [None, 1])
@given(data=st.data())
def test_every_flipped_bit_of_a_data_frame_is_noticed(level: int | None, data: st.DataObject) -> None:
    good = encode(data_frame(1, 0, TEXT, compressor(level)))
    position = data.draw(st.one_of(st.integers(0, HEADER_BYTES - 1), st.integers(0, len(good) - 1)))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        content = cell_content(decode(bytes(bad)))
    except Corrupt:
        return
    # only bits of a zstd frame that mean nothing may pass, and then the cell is the one that was sent
    assert level
    assert position >= HEADER_BYTES
    assert bytes(content) == TEXT


def test_every_single_bit_of_the_header_is_covered_by_its_checksum() -> None:
    for frame in (Frame(FrameKind.ZERO, 3, 5, 7), Frame(FrameKind.DURABLE, 3, 5, 7)):
        good = encode(frame)
        for bit in range(8 * HEADER_BYTES):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Corrupt):
                decode(bytes(bad))


def forged(**fields: int) -> bytes:
    """A header whose checksum is right and whose contents are whatever is asked for."""
    values = {
        "kind": 1, "bitmap": 1, "encoding": 0, "cell": 0, "count": 1, "length": CELL_BYTES, "payload": BLOCK_BYTES,
    }  # fmt: skip
    values.update(fields)
    head = struct.pack(
        "!2sBBHBxQQQII16s", b"CX", 2, values["kind"], values["bitmap"], values["encoding"], 1,
        values["cell"], values["count"], values["length"], values["payload"], bytes(16),
    )  # fmt: skip
    return head + struct.pack("!Q", xxhash.xxh3_64_intdigest(head))


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": 0},
        {"kind": 9},
        {"encoding": 2},
        {"payload": CELL_BYTES + 1},
        {"payload": 2**32 - 1, "encoding": 1},
        {"payload": BLOCK_BYTES - 1},
        {"payload": BLOCK_BYTES, "encoding": 1},
        {"length": 0, "payload": 0, "bitmap": 0},
        {"length": CELL_BYTES + 1},
        {"length": BLOCK_BYTES, "bitmap": 2},
        {"kind": 2, "payload": 1},
        {"kind": 4, "payload": 64},
    ],
)
def test_a_header_that_lies_about_lengths_is_refused_before_anything_is_read(lie: dict[str, int]) -> None:
    assert decode_header(forged()).payload_bytes == BLOCK_BYTES, "the honest one passes"
    with pytest.raises(Corrupt):
        decode_header(forged(**lie))


# -- zstd payloads that lie (D10) ---------------------------------------------------------------------------------


def zstd_frame(payload: bytes, *, length: int = CELL_BYTES) -> Frame:
    blocks = -(-length // BLOCK_BYTES)
    return Frame(FrameKind.DATA, 1, 0, 1, length, (1 << blocks) - 1, b"x" * 16, payload, Encoding.ZSTD)


def stating(size: int | None, content: bytes) -> bytes:
    """A zstd frame of ``content`` whose header states ``size`` (RFC 8878, section 3.1.1.1); None: nothing."""
    if size is None:
        return zstandard.ZstdCompressor(write_content_size=False).compress(content)
    body = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    # magic, then descriptor: without a size it has a window byte; with 8 bytes of size that window stays
    descriptor, window, rest = body[4], body[5:6], body[6:]
    assert descriptor >> 5 == 0
    return body[:4] + bytes([descriptor | 0xC0]) + window + struct.pack("<Q", size) + rest


@pytest.mark.parametrize(
    "payload",
    [
        stating(None, bytes(CELL_BYTES)),
        stating(CELL_BYTES - 1, bytes(CELL_BYTES)),
        stating(CELL_BYTES, bytes(CELL_BYTES - 1)),
        stating(CELL_BYTES, bytes(CELL_BYTES + 1)),
        stating(CELL_BYTES, bytes(64 * CELL_BYTES)),
        stating(1 << 50, b"x"),
        stating(2**64 - 3, bytes(CELL_BYTES)),
        zstandard.compress(bytes(64 * CELL_BYTES)),
        zstandard.compress(bytes(CELL_BYTES)) + zstandard.compress(bytes(CELL_BYTES)),
        zstandard.compress(bytes(CELL_BYTES)) + b"tail",
        zstandard.compress(bytes(CELL_BYTES // 2)) + zstandard.compress(bytes(CELL_BYTES // 2)),
        zstandard.compress(bytes(CELL_BYTES))[:-3],
        b"\x50\x2a\x4d\x18\xff\xff\xff\x7f",  # a skippable frame of 2 GiB
        b"not zstd",
        b"",
    ],
    ids=range(15),
)
def test_a_zstd_payload_that_is_not_exactly_its_cell_is_refused(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        plain_payload(zstd_frame(payload))


def test_the_lying_frames_of_this_file_are_honest_when_they_state_the_truth() -> None:
    assert bytes(plain_payload(zstd_frame(stating(CELL_BYTES, bytes(CELL_BYTES))))) == bytes(CELL_BYTES)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(FrameKind.ZERO, 1, 4),
        Frame(FrameKind.ZERO, 1, 0, 5),
        Frame(FrameKind.ZERO, 1, 0, 0),
        Frame(FrameKind.ZERO, 1, 2**63, 2**63),
        Frame(FrameKind.DATA, 1, 0, 2, CELL_BYTES, 1, b"x" * 16, b"y" * BLOCK_BYTES),
        Frame(FrameKind.DATA, 1, 3, 1, CELL_BYTES, 1, b"x" * 16, b"y" * BLOCK_BYTES),
    ],
)
def test_cells_beyond_the_disk_are_refused(frame: Frame) -> None:
    with pytest.raises(Corrupt):
        check_bounds(frame, 3 * CELL_BYTES + 512, 4)


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for wrong in (garbage, encode_header(Frame(FrameKind.DATA, 1, 0))[:56] + garbage, b"CX\x02" + garbage):
        with pytest.raises(Corrupt):
            decode(wrong)


def test_a_frame_larger_than_any_cell_is_refused() -> None:
    with pytest.raises(Corrupt, match="larger"):
        decode(bytes(MAX_FRAME_BYTES + 1))


def test_a_frame_of_the_first_version_is_refused() -> None:
    old = bytearray(encode(Frame(FrameKind.ZERO, 1, 0)))
    old[2] = 1
    with pytest.raises(Corrupt, match="version"):
        decode(bytes(old))


def test_acks_are_joined_within_their_bound() -> None:
    acks = [Frame(FrameKind.RECEIVED, 1, cell) for cell in range(3000)]
    messages = encode_acks(acks)
    assert max(map(len, messages)) <= 64 << 10
    assert [ack for message in messages for ack in decode_acks(message)] == acks
    with pytest.raises(Corrupt):
        decode_acks(messages[0][:-1])
    with pytest.raises(Corrupt):
        decode_acks(encode(Frame(FrameKind.ZERO, 1, 0)))
    assert HEADER_BYTES == 64
