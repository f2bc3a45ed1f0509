"""Reads for one lane what it was told to send, before the lane comes to it.

A disk behind a network answers each request late and has room for several at once; a lane that reads a cell, sends it
and reads the next one waits for every answer. So cells that follow each other are read in pieces of several cells, and
a few pieces are under way while the lane sends. Nothing is read that the lane was not given. All lanes of a task share
the memory for it (``AheadRoom``); a lane for which nothing is left reads cell by cell.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import msgspec

from coriolis.errors import TimedOut
from coriolis.transfer.cells import CELL_BYTES

MAX_PIECE_BYTES = 4 * CELL_BYTES
PIECES_AHEAD = 2
"""Besides the one that the lane sends from: a lane holds at most 12 MiB."""
ROOM_BYTES = 64 << 20
"""Of one task: many disks, or many lanes on a long path, would hold gigabytes otherwise."""
QUICK_S, SLOW_S = 0.25, 1.0
"""Pieces grow while they come quicker and shrink when they come slower: a lane on a slow disk has to show that it lives
by sending a cell now and then."""
READ_TIMEOUT_S = 300.0
"""One piece through a provider; a provider judges silence by itself and much earlier."""

StartRead = Callable[[int, int], "Future[bytes]"]


def next_piece_bytes(last: int, seconds: float) -> int:
    """The size of the pieces to come, from the last one's and how long it took until it was needed and there."""
    if seconds < QUICK_S:
        return min(MAX_PIECE_BYTES, 2 * last)
    return max(CELL_BYTES, last // 2) if seconds > SLOW_S else last


class AheadRoom:
    """Memory that lanes of one task share. Thread-safe."""

    def __init__(self, size: int = ROOM_BYTES) -> None:
        self._left = size
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        return self._left

    def take(self, length: int) -> bool:
        """Whether there was room."""
        with self._lock:
            if length > self._left:
                return False
            self._left -= length
            return True

    def give_back(self, length: int) -> None:
        with self._lock:
            self._left += length


class _Piece(msgspec.Struct):
    """``room``: what it takes of the shared memory."""

    offset: int
    length: int
    room: int
    read: Future[bytes]
    started_s: float


class ReadAhead:
    """``expect`` may be called from another thread than the lane's, before the lane reads what it names."""

    def __init__(self, start: StartRead, room: AheadRoom, clock: Callable[[], float] = time.monotonic) -> None:
        self._start, self._room, self._clock = start, room, clock
        self._expected: deque[tuple[int, int]] = deque()
        self._pieces: deque[_Piece] = deque()
        self._size = CELL_BYTES
        self._data = memoryview(b"")
        self._at = self._held = 0

    def expect(self, offset: int, length: int) -> None:
        """The lane will read this range from front to back, after what it was told before."""
        self._expected.append((offset, length))

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from ``offset``: the next bytes of what was expected. Raises what the disk raises, TimedOut."""
        if not self._data:
            self._take()
        self._begin_ahead()
        length = len(view)
        if offset != self._at or length > len(self._data):
            raise AssertionError(f"{length} bytes at {offset}: next are {len(self._data)} at {self._at}")
        view[:] = self._data[:length]
        self._data, self._at = self._data[length:], offset + length
        if not self._data:
            self._drop()  # a lane without work holds nothing

    def close(self) -> None:
        """Nobody waits for what is under way any more."""
        self._drop()
        for piece in self._pieces:
            piece.read.cancel()
            self._room.give_back(piece.room)
        self._pieces.clear()

    def _take(self) -> None:
        """Go on to the next piece, and begin with those behind it."""
        if not self._pieces and self._expected:
            length = self._next_length()
            if self._room.take(length):
                self._begin(length, room=length)
            else:
                self._begin(min(length, CELL_BYTES), room=0)  # the lane needs it now, as one without reading ahead does
        piece = self._pieces.popleft()
        self._held = piece.room
        self._begin_ahead()
        try:
            self._data, self._at = memoryview(piece.read.result(READ_TIMEOUT_S)), piece.offset
        except FutureTimeoutError as silent:
            piece.read.cancel()
            raise TimedOut(f"a disk has not answered for {READ_TIMEOUT_S:.0f} s") from silent
        self._size = next_piece_bytes(self._size, self._clock() - piece.started_s)

    def _drop(self) -> None:
        """The piece that the lane sent from."""
        self._data = memoryview(b"")
        self._room.give_back(self._held)
        self._held = 0

    def _begin_ahead(self) -> None:
        while len(self._pieces) < PIECES_AHEAD and self._expected and self._room.take(length := self._next_length()):
            self._begin(length, room=length)

    def _next_length(self) -> int:
        return min(self._expected[0][1], self._size)

    def _begin(self, length: int, room: int) -> None:
        offset, whole = self._expected.popleft()
        if length < whole:
            self._expected.appendleft((offset + length, whole - length))
        self._pieces.append(_Piece(offset, length, room, self._start(offset, length), self._clock()))
