"""What the sink decides about frames: threads at once, repetition, order, overlap, and what is told again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading

import numpy as np
import zstandard

from coriolis.errors import CoriolisError
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import HEADER_BYTES, Frame, FrameKind, data_frame, decode, decode_acks, encode
from coriolis.transfer.receiver import MAX_REMEMBERED_REJECTS, Intake, Receiver
from coriolis.transfer.table import CellTable

LANES = 8

_THREADS = f"""
from tests.unit.transfer.test_receiver import compressed_cells_in_many_threads
assert compressed_cells_in_many_threads({LANES}, 150) == []
"""


def words(seed: int) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.choice([b"lorem ", b"ipsum ", b"%d" % rng.randrange(9999)]) for _ in range(250_000))[
        :CELL_BYTES
    ]


def compressed_cells_in_many_threads(threads: int, times: int) -> list[str]:
    """Each thread's own cell through one Intake; returns what went wrong. Run apart: it once ended the process."""
    packer = zstandard.ZstdCompressor(level=1)
    frames = [decode(encode(data_frame(1, cell, words(cell), packer))) for cell in range(threads)]
    intake = Intake(threads * CELL_BYTES, 1, np.zeros(threads, dtype=np.uint8))
    wrong: list[str] = []

    def receive(frame: Frame) -> None:
        try:
            for _ in range(times):
                intake.accept(frame)
        except CoriolisError as failed:
            wrong.append(failed.message)

    lanes = [threading.Thread(target=receive, args=(frame,)) for frame in frames]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return wrong


def test_lanes_of_one_process_decompress_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", _THREADS], capture_output=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_a_source_that_lost_its_acks_is_told_again_what_is_missing_too() -> None:
    """A REJECTED that went with its stream would leave the source waiting for good."""
    receiver = Receiver(3 * CELL_BYTES, 1, CellTable(3 * CELL_BYTES))
    receiver.rejected(1, 1)
    receiver.written(Frame(FrameKind.ZERO, 1, 0))
    told = [(ack.kind, ack.cell) for message in receiver.known_acks() for ack in decode_acks(message)]
    assert told == [(FrameKind.RECEIVED, 0), (FrameKind.REJECTED, 1)]
    receiver.written(data_frame(1, 1, words(1)))
    told = [(ack.kind, ack.cell) for message in receiver.known_acks() for ack in decode_acks(message)]
    assert told == [(FrameKind.RECEIVED, 0), (FrameKind.RECEIVED, 1)]


def test_a_hostile_source_fills_no_memory_with_refusals() -> None:
    receiver = Receiver(CELL_BYTES, 1, CellTable(CELL_BYTES))
    for cell in range(10 * MAX_REMEMBERED_REJECTS):
        receiver.rejected(cell, 1)
    assert sum(len(message) for message in receiver.known_acks()) <= MAX_REMEMBERED_REJECTS * HEADER_BYTES
