"""Frames of any kind, as either transport receives them (D2): the good are written, of the others nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.agent.lanes.grpc_sink import decode_or_end
from coriolis.agent.lanes.messages import DiskFailed, FromHost, Refused, WroteFrame
from coriolis.agent.lanes.sink_host import ServedDisk, frames_of, receive_frames
from coriolis.errors import CoriolisError, Corrupt, StaleGeneration, Unavailable
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import Encoding, Frame, FrameKind, data_frame, decode, encode
from coriolis.transfer.receiver import Intake

GENERATION = 3
TAIL = 300
SIZE = 2 * CELL_BYTES + TAIL
FRAMES_CASES = 10_000


class MemoryCells:
    """Meets CellWriter; refuses to be written outside of the volume."""

    def __init__(self, size: int) -> None:
        self.now = bytearray(size)
        self.writes = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        assert 0 <= offset <= offset + len(data) <= len(self.now)
        self.now[offset : offset + len(data)] = data
        self.writes += 1

    def write_zeroes(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))


class MemoryStream:
    """A lane's received bytes. Meets what ``receive_frames`` needs of TlsReceiver."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_into(self, view: memoryview) -> bool:
        if not self._data:
            return False
        if len(self._data) < len(view):
            raise Unavailable("a lane's connection was cut")
        view[:] = self._data[: len(view)]
        self._data = self._data[len(view) :]
        return True


class Heard:
    """What lanes tell. Meets what ``receive_frames`` needs of Teller."""

    def __init__(self) -> None:
        self.words: list[Any] = []

    def add(self, disk_id: str, said: WroteFrame | Refused, more_comes: bool | None = None) -> None:
        self.words.append(said)

    def flush(self, disk_id: str) -> None: ...

    def say(self, message: FromHost) -> None:
        self.words.append(message)


def by_grpc(disk: ServedDisk, message: bytes) -> list[Any]:
    heard: Any = Heard()
    receive_frames((decode_or_end(each) for each in [message]), disk, heard, lambda: None)
    words: list[Any] = heard.words
    return words


def by_direct(disk: ServedDisk, message: bytes) -> list[Any]:
    heard: Any = Heard()
    stream: Any = MemoryStream(message)
    receive_frames(frames_of(stream), disk, heard, lambda: False)
    words: list[Any] = heard.words
    return words


def new_victim(size: int = SIZE) -> tuple[ServedDisk, MemoryCells]:
    cells = MemoryCells(size)
    intake = Intake(size, GENERATION, np.ones(-(-size // CELL_BYTES), dtype=np.uint8))
    return ServedDisk("d", intake, cells), cells


@pytest.fixture(scope="module")
def victim() -> tuple[ServedDisk, MemoryCells]:
    return new_victim()


GOOD = encode(data_frame(GENERATION, 2, random.Random(1).randbytes(TAIL)))
ZERO = encode(Frame(FrameKind.ZERO, GENERATION, 2))

positions = st.integers(0, len(GOOD) - 1)
flips = st.lists(st.tuples(positions, st.integers(1, 255)), min_size=1, max_size=4)
garbage = st.binary(max_size=120)
headers = st.builds(
    lambda kind, generation, cell, count, length, bitmap, body, encoding: encode(
        Frame(kind, generation, cell, count, length, bitmap, bytes(16), body, encoding)
    ),
    st.sampled_from(list(FrameKind)),
    st.sampled_from([0, GENERATION - 1, GENERATION, GENERATION, GENERATION + 1, 2**64 - 1]),
    st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1])),
    st.one_of(st.integers(0, 4), st.sampled_from([2**63, 2**64 - 1])),
    st.one_of(st.integers(0, 1000), st.sampled_from([CELL_BYTES, CELL_BYTES + 1, 2**32 - 1])),
    st.integers(0, 2**16 - 1),
    st.binary(max_size=400),
    st.sampled_from(list(Encoding)),
)


@settings(max_examples=FRAMES_CASES, deadline=None)
@given(st.one_of(flips, garbage, headers), st.sampled_from([by_grpc, by_direct]))
def test_malformed_frames_are_refused_and_never_written(
    victim: tuple[ServedDisk, MemoryCells],
    case: list[tuple[int, int]] | bytes,
    arrive: Callable[[ServedDisk, bytes], list[Any]],
) -> None:
    disk, cells = victim
    before, written_before = bytes(cells.now), cells.writes
    message = case
    if isinstance(case, list):
        damaged = bytearray(GOOD)
        for position, mask in case:
            damaged[position] ^= mask
        message = bytes(damaged)
    assert isinstance(message, bytes)
    try:
        said = arrive(disk, message)
    except (Corrupt, StaleGeneration, Unavailable):
        said = []
    accepted = [each for each in said if isinstance(each, WroteFrame)]
    assert all(isinstance(each, WroteFrame | Refused) for each in said)
    if not accepted:
        assert bytes(cells.now) == before
        assert cells.writes == written_before
        return
    frame = decode(message)
    assert frame.generation == GENERATION
    assert frame.cell + frame.count <= 3
    if isinstance(case, list):
        # flips of one byte may cancel each other out; nothing else passes
        assert message == GOOD


@pytest.mark.parametrize("arrive", [by_grpc, by_direct])
def test_good_frames_of_the_same_shape_are_written(arrive: Callable[[ServedDisk, bytes], list[Any]]) -> None:
    disk, cells = new_victim()
    assert [type(each) for each in arrive(disk, GOOD)] == [WroteFrame]
    assert cells.now[2 * CELL_BYTES :] == random.Random(1).randbytes(TAIL)
    assert [type(each) for each in arrive(disk, ZERO)] == [WroteFrame]
    assert not any(cells.now[2 * CELL_BYTES :])


@pytest.mark.parametrize("error", [Unavailable("the disk is gone"), Corrupt("the file was cut")])
def test_a_volume_that_fails_is_told_whatever_it_fails_with(error: CoriolisError) -> None:
    """Else it would be taken for the lane's fault, and tried again without anybody knowing why."""
    disk, cells = new_victim()

    def fail(offset: int, data: object) -> None:
        raise error

    cells.write = fail  # type: ignore[method-assign]
    [failed] = by_direct(disk, GOOD)
    assert failed == DiskFailed("d", error.code, error.message)
