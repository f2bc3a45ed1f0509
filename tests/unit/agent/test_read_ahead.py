"""Reading ahead for a lane: each byte once, in order, never what was not given, bounded."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.agent.lanes.read_ahead import (
    MAX_PIECE_BYTES,
    PIECES_AHEAD,
    QUICK_S,
    ROOM_BYTES,
    SLOW_S,
    AheadRoom,
    ReadAhead,
    next_piece_bytes,
)
from coriolis.errors import Unavailable
from coriolis.transfer.cells import CELL_BYTES, Run, cell_length


def content(offset: int, length: int) -> bytes:
    """Tells each KiB of the disk from the others without holding a disk."""
    first = offset // 1024
    return b"".join(number.to_bytes(4, "big") * 256 for number in range(first, first + -(-length // 1024)))[:length]


class Disk:
    """Answers at once, or when the test says so."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.asked: list[tuple[int, int]] = []
        self.open: list[Future[bytes]] = []
        self.now = 0.0

    def start(self, offset: int, length: int) -> Future[bytes]:
        future: Future[bytes] = Future()
        self.asked.append((offset, length))
        if self.at_once:
            future.set_result(content(offset, length))
        self.open.append(future)
        return future


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 24)), max_size=6),
    st.integers(1, CELL_BYTES // 1024),
    st.integers(0, 16),
)
def test_a_lane_gets_each_cell_and_nothing_else_is_read(
    gaps: list[tuple[int, int]], last_kib: int, room_cells: int
) -> None:
    runs, at = [], 0
    for gap, count in gaps:
        runs.append(Run(at + gap, count))
        at += gap + count
    size = (at - 1) * CELL_BYTES + last_kib * 1024
    disk, room = Disk(), AheadRoom(room_cells * CELL_BYTES)
    lane = ReadAhead(disk.start, room)
    for run in runs:
        lane.expect(run.first * CELL_BYTES, min(run.count * CELL_BYTES, size - run.first * CELL_BYTES))
    for run in runs:
        for cell in range(run.first, run.end):
            view = memoryview(bytearray(cell_length(cell, size)))
            lane.read_into(cell * CELL_BYTES, view)
            assert view == content(cell * CELL_BYTES, len(view))
    assert room.left == room_cells * CELL_BYTES, "all of it was given back"
    wanted = [(run.first * CELL_BYTES, min(run.end * CELL_BYTES, size)) for run in runs]
    assert sum(length for _, length in disk.asked) == sum(end - begin for begin, end in wanted)
    for offset, length in disk.asked:
        assert length <= MAX_PIECE_BYTES
        assert any(begin <= offset and offset + length <= end for begin, end in wanted)


def test_pieces_are_under_way_while_the_lane_sends_and_no_more_of_them() -> None:
    disk = Disk()
    lane = ReadAhead(disk.start, AheadRoom(), clock=lambda: disk.now)
    lane.expect(0, 64 * CELL_BYTES)
    assert disk.asked == [], "nothing before the lane begins"
    room = memoryview(bytearray(CELL_BYTES))
    for cell in range(64):
        lane.read_into(cell * CELL_BYTES, room)
        read = sum(length for _, length in disk.asked)
        assert read <= (cell + 1) * CELL_BYTES + MAX_PIECE_BYTES * (PIECES_AHEAD + 1)
        assert read > (cell + 1) * CELL_BYTES or cell == 63, "something is under way"
    assert len(disk.asked) < 24, "of several cells each"


def test_many_lanes_share_a_bounded_room_and_none_of_them_waits_for_another() -> None:
    disk, room = Disk(), AheadRoom(8 * CELL_BYTES)
    lanes = [ReadAhead(disk.start, room) for _ in range(32)]
    view = memoryview(bytearray(CELL_BYTES))
    for number, lane in enumerate(lanes):
        lane.expect(number * 16 * CELL_BYTES, 16 * CELL_BYTES)
    for cell in range(16):
        for number, lane in enumerate(lanes):
            lane.read_into((number * 16 + cell) * CELL_BYTES, view)
        given = (cell + 1) * len(lanes) * CELL_BYTES
        assert sum(length for _, length in disk.asked) <= given + 8 * CELL_BYTES
        assert room.left >= 0
    assert room.left == 8 * CELL_BYTES, "lanes without work hold nothing"


def test_what_comes_later_follows_what_is_under_way() -> None:
    disk = Disk()
    lane = ReadAhead(disk.start, AheadRoom())
    room = memoryview(bytearray(CELL_BYTES))
    lane.expect(0, 2 * CELL_BYTES)
    lane.read_into(0, room)
    lane.expect(10 * CELL_BYTES, CELL_BYTES)
    lane.read_into(CELL_BYTES, room)
    assert (10 * CELL_BYTES, CELL_BYTES) in disk.asked, "it is asked for before the lane comes to it"
    lane.read_into(10 * CELL_BYTES, room)
    assert room == content(10 * CELL_BYTES, CELL_BYTES)


def test_a_cell_that_arrived_damaged_is_read_again() -> None:
    disk = Disk()
    lane = ReadAhead(disk.start, AheadRoom())
    room = memoryview(bytearray(CELL_BYTES))
    for cell in (0, 0, 1, 0, 1):
        lane.expect(cell * CELL_BYTES, CELL_BYTES)
    for cell in (0, 0, 1, 0, 1):
        lane.read_into(cell * CELL_BYTES, room)
        assert room == content(cell * CELL_BYTES, CELL_BYTES)
    assert len(disk.asked) == 5


def test_what_reading_fails_with_comes_at_its_cell() -> None:
    disk = Disk(at_once=False)
    lane = ReadAhead(disk.start, AheadRoom())
    lane.expect(0, 3 * CELL_BYTES)
    room = memoryview(bytearray(CELL_BYTES))
    threading.Timer(0.05, lambda: disk.open[0].set_result(content(0, CELL_BYTES))).start()
    lane.read_into(0, room)
    assert len(disk.open) == PIECES_AHEAD + 1
    disk.open[1].set_exception(Unavailable("the disk is gone"))
    with pytest.raises(Unavailable, match="the disk is gone"):
        lane.read_into(CELL_BYTES, room)


def test_a_lane_that_ends_waits_for_nothing() -> None:
    disk, room = Disk(at_once=False), AheadRoom()
    lane = ReadAhead(disk.start, room)
    lane.expect(0, 8 * CELL_BYTES)
    threading.Timer(0.05, lambda: disk.open[0].set_result(content(0, CELL_BYTES))).start()
    lane.read_into(0, memoryview(bytearray(CELL_BYTES)))
    lane.close()
    assert [future.cancelled() for future in disk.open] == [False] + [True] * PIECES_AHEAD
    assert room.left == ROOM_BYTES


def test_pieces_are_as_large_as_the_disk_is_quick() -> None:
    size = CELL_BYTES
    for _ in range(5):
        size = next_piece_bytes(size, QUICK_S / 2)
    assert size == MAX_PIECE_BYTES
    assert next_piece_bytes(size, (QUICK_S + SLOW_S) / 2) == size
    for _ in range(5):
        size = next_piece_bytes(size, 2 * SLOW_S)
    assert size == CELL_BYTES
