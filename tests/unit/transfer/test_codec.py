"""Frames: what is encoded is decoded, and nothing malformed passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Corrupt
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import (
    BLOCK_BYTES,
    HEADER_BYTES,
    Frame,
    FrameKind,
    cell_content,
    check_bounds,
    data_frame,
    decode,
    decode_acks,
    encode,
    encode_acks,
    nonzero_blocks,
)

lengths = st.one_of(
    st.integers(1, 2 * BLOCK_BYTES), st.sampled_from([511, 512, CELL_BYTES - 1, CELL_BYTES, BLOCK_BYTES])
)


@given(lengths, st.sets(st.integers(0, CELL_BYTES - 1), max_size=4), st.integers(1, 255))
def test_a_cell_survives_the_wire_whatever_blocks_it_has(length: int, marks: set[int], value: int) -> None:
    cell = bytearray(length)
    for mark in marks:
        cell[mark % length] = value
    frame = decode(encode(data_frame(7, 3, bytes(cell))))
    if marks:
        assert frame.kind is FrameKind.DATA
        assert bytes(cell_content(frame)) == bytes(cell)
        assert len(frame.payload) <= len({m % length // BLOCK_BYTES for m in marks}) * BLOCK_BYTES
    else:
        assert frame.kind is FrameKind.ZERO


@given(st.integers(0, CELL_BYTES - 1))
def test_one_non_zero_byte_is_never_taken_for_zero(position: int) -> None:
    cell = bytearray(CELL_BYTES)
    cell[position] = 1
    assert nonzero_blocks(bytes(cell)) == 1 << position // BLOCK_BYTES


@given(st.data())
def test_every_flipped_bit_of_a_data_frame_is_noticed(data: st.DataObject) -> None:
    good = encode(data_frame(1, 0, b"\x5a" * BLOCK_BYTES))
    # generation, cell and reserved bits are checked by other rules than the digest
    position = data.draw(st.one_of(st.integers(0, 5), st.integers(32, len(good) - 1)))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        frame = decode(bytes(bad))
        if frame.kind is not FrameKind.DATA:
            return
        content = cell_content(frame)
        check_bounds(frame, BLOCK_BYTES, 1)
    except Corrupt:
        return
    assert bytes(content) == b"\x5a" * BLOCK_BYTES


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
    with pytest.raises(Corrupt):
        decode(garbage)


def test_acks_are_joined_within_their_bound() -> None:
    acks = [Frame(FrameKind.RECEIVED, 1, cell) for cell in range(3000)]
    messages = encode_acks(acks)
    assert max(map(len, messages)) <= 64 << 10
    assert [ack for message in messages for ack in decode_acks(message)] == acks
    with pytest.raises(Corrupt):
        decode_acks(messages[0][:-1])
    with pytest.raises(Corrupt):
        decode_acks(encode(Frame(FrameKind.ZERO, 1, 0)))
    assert HEADER_BYTES == 52
