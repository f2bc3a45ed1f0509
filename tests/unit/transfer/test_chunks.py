"""D2 and D10: frames in any order and number, overlapping, beyond the end, of other generations; bombs and false sizes.

The model is the simplest there is: an array of cells that each good frame sets. Nothing else may change a byte.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from coriolis.agent.lanes.sink_host import ServedDisk, frames_of, receive_frames
from coriolis.agent.lanes.teller import Teller
from coriolis.errors import CoriolisError, Corrupt, StaleGeneration
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, cell_length, complement
from coriolis.transfer.codec import (
    BLOCK_BYTES,
    BLOCKS_PER_CELL,
    Encoding,
    Frame,
    FrameKind,
    data_frame,
    decode,
    encode,
)
from coriolis.transfer.receiver import WINDOW_BYTES, Intake, Receiver, Write
from coriolis.transfer.sender import Plan, Sender
from coriolis.transfer.table import CellState, CellTable

CASES = 10_000
CELLS = 5
SIZE = (CELLS - 1) * CELL_BYTES + 700
GENERATION = 7
PACKER = zstandard.ZstdCompressor(level=1)


class Storm:
    """One volume, one receiver, and what the volume must hold."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.volume = np.zeros(SIZE, dtype=np.uint8)
        self.model = np.zeros(SIZE, dtype=np.uint8)
        self.receiver = Receiver(SIZE, GENERATION, CellTable(SIZE), unwritten_is_zero=True)
        self.sent: list[bytes] = []
        self.refused = 0
        self.good = 0

    def content(self, cell: int) -> bytes:
        """Mostly zeros, so that cases are cheap and both encodings and bitmaps occur."""
        data = bytearray(cell_length(cell, SIZE))
        for _ in range(self.rng.randrange(3)):
            at = self.rng.randrange(len(data))
            data[at : at + 40] = self.rng.randbytes(len(data[at : at + 40]))
        return bytes(data)

    def a_frame(self) -> Frame:
        cell = self.rng.randrange(CELLS)
        if self.rng.random() < 0.3:
            return Frame(FrameKind.ZERO, GENERATION, cell, self.rng.randint(1, CELLS - cell))
        return data_frame(GENERATION, cell, self.content(cell), PACKER if self.rng.random() < 0.5 else None)

    def a_bad_frame(self) -> Frame:
        rng, good = self.rng, self.a_frame()
        data = data_frame(GENERATION, 1, bytes(9) + b"x" * (CELL_BYTES - 9))
        fields = {name: getattr(data, name) for name in data.__struct_fields__}
        lie: dict[str, Any] = rng.choice(
            [
                {"cell": CELLS + rng.randrange(10)},
                {"cell": 2**64 - 1},
                {"count": 2},
                {"count": 0},
                {"cell": CELLS - 1},  # a whole cell where the disk has 700 bytes
                {"generation": rng.choice([0, GENERATION - 1, GENERATION + 1, 2**64 - 1])},
                {"digest": bytes(16)},
                {"kind": rng.choice([FrameKind.RECEIVED, FrameKind.DURABLE, FrameKind.REJECTED]), "payload": b""},
                {"payload": b"y" * CELL_BYTES},
            ]
        )
        if good.kind is FrameKind.ZERO and rng.random() < 0.3:
            return Frame(FrameKind.ZERO, GENERATION, good.cell, CELLS - good.cell + rng.choice([1, 2**40, 2**63]))
        return Frame(**{**fields, **lie})

    def deliver(self, frame: Frame, *, good: bool) -> None:
        try:
            accepted = self.receiver.accept(decode(encode(frame)))
        except (Corrupt, StaleGeneration):
            assert not good
            self.refused += 1
            return
        assert good, frame
        for operation in accepted.operations:
            if isinstance(operation, Write):
                end = operation.offset + len(operation.data)
                assert end <= SIZE
                self.volume[operation.offset : end] = np.frombuffer(operation.data, dtype=np.uint8)
            else:
                assert operation.offset + operation.length <= SIZE
                self.volume[operation.offset : operation.offset + operation.length] = 0
        self.receiver.written(accepted.frame)
        self.good += 1


def test_ten_thousand_chunks_in_any_order_and_number() -> None:
    """Repeated, reordered, overlapping, beyond the end, of another generation: the last good one of a cell counts."""
    storm = Storm(int(os.environ.get("CORIOLIS_FAULT_SEED", "1")))
    held: list[Frame] = []
    for _ in range(CASES):
        draw = storm.rng.random()
        if draw < 0.4:
            storm.deliver(storm.a_bad_frame(), good=False)
            continue
        if draw < 0.6 and held:
            frame = storm.rng.choice(held)  # again, and later than others of the same cell
        else:
            frame = storm.a_frame()
            held = [*held[-20:], frame]
        storm.deliver(frame, good=True)
        apply(storm.model, frame)
        if storm.rng.random() < 0.05:
            storm.receiver.make_durable(storm.receiver.start_flush())
    assert np.array_equal(storm.volume, storm.model)
    assert storm.refused > CASES // 4
    assert storm.good > CASES // 4


def apply(model: Any, frame: Frame) -> None:
    start = frame.cell * CELL_BYTES
    end = min(start + frame.count * CELL_BYTES, SIZE)
    model[start:end] = 0
    if frame.kind is FrameKind.DATA:
        payload = frame.payload
        if frame.encoding is Encoding.ZSTD:
            payload = zstandard.decompress(payload)
        position = 0
        for block in range(BLOCKS_PER_CELL):
            if frame.bitmap >> block & 1:
                at = start + block * BLOCK_BYTES
                size = min(BLOCK_BYTES, end - at)
                model[at : at + size] = np.frombuffer(payload[position : position + size], dtype=np.uint8)
                position += size


# -- bombs ---------------------------------------------------------------------------------------------------------


def header(payload_bytes: int, *, encoding: int = 1, bitmap: int = 0xFFFF) -> bytes:
    """Of a DATA frame whose checksum is right and whose payload length is a claim."""
    import xxhash

    fields = struct.pack(
        "!2sBBHBxQQQII16s", b"CX", 2, 1, bitmap, encoding, GENERATION, 0, 1, CELL_BYTES, payload_bytes, bytes(16)
    )
    return fields + struct.pack("!Q", xxhash.xxh3_64_intdigest(fields))


def bombs() -> list[bytes]:
    """Messages that claim, or unpack to, far more than a cell."""
    gibibyte = zstandard.ZstdCompressor(level=19).compressobj(size=1 << 30)
    packed = b"".join(gibibyte.compress(bytes(1 << 20)) for _ in range(1 << 10)) + gibibyte.flush()
    assert len(packed) < CELL_BYTES
    window = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True)
    wide = zstandard.ZstdCompressor(compression_params=window).compress(bytes(CELL_BYTES))
    # magic, descriptor with an 8-byte size and no single segment, window, size: then one block of a repeated byte
    lying = b"\x28\xb5\x2f\xfd\xc0\xd8" + struct.pack("<Q", CELL_BYTES) + b"\xff\xff\x0f" + b"\x00"
    run = struct.pack("<I", (0 << 0) | (1 << 1) | ((1 << 17) << 3))[:3] + b"\x00"
    honest_size_long_content = b"\x28\xb5\x2f\xfd\xc0\x50" + struct.pack("<Q", CELL_BYTES) + run * 4000
    huge_size = b"\x28\xb5\x2f\xfd\xc0\x50" + struct.pack("<Q", 1 << 62) + run
    unknown_size = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * CELL_BYTES))
    frames = [packed, wide + wide, lying, honest_size_long_content, huge_size, unknown_size]
    return [header(len(each)) + each for each in frames] + [
        header(CELL_BYTES + 1),
        header(2**32 - 1),
        header(0),
        header(CELL_BYTES, encoding=0, bitmap=1) + bytes(CELL_BYTES),
    ]


def hostile_lanes(times: int) -> int:
    """Feed every bomb ``times`` times; returns the growth of the resident set in bytes. For a process of its own."""

    class NoWriter:
        def write(self, offset: int, data: bytes | memoryview) -> None:
            raise AssertionError("a bomb was written")

        def write_zeroes(self, offset: int, length: int) -> None:
            raise AssertionError("a bomb was written")

    class Stream:
        def __init__(self, data: bytes) -> None:
            self.data = memoryview(data)

        def read_into(self, view: memoryview) -> bool:
            if len(self.data) < len(view):
                return False
            view[:] = self.data[: len(view)]
            self.data = self.data[len(view) :]
            return True

    disk = ServedDisk("d", Intake(SIZE, GENERATION, np.ones(CELLS, dtype=np.uint8)), NoWriter())
    lanes = bombs()
    ours, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)  # nobody reads what is told
    teller = Teller(ours)

    def feed() -> None:
        for message in lanes:
            stream: Any = Stream(message)
            try:
                receive_frames(frames_of(stream), disk, teller, lambda: False)
            except CoriolisError:
                continue

    good = encode(data_frame(GENERATION, 1, bytes(100) + b"x" * (CELL_BYTES - 100), PACKER))
    for _ in range(8):
        disk.intake.accept(decode(good))  # what honest frames need is not growth
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on, proc(5)
    for _ in range(times):
        feed()
    return _peak() - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_bombs_and_false_lengths_cost_no_memory() -> None:
    script = "from tests.unit.transfer import test_chunks as t; print(t.hostile_lanes(20))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert int(done.stdout) <= 8 << 20, f"{int(done.stdout) >> 10} KiB"


# -- many extents --------------------------------------------------------------------------------------------------


def test_two_hundred_thousand_extents_pass_sender_and_receiver_in_seconds() -> None:
    """D8. Every second cell of 400 GiB holds data: as many flights, acks and zero runs as there can be."""
    count = 200_000
    size = 2 * count * CELL_BYTES
    data = [Run(2 * number, 1) for number in range(count)]
    zero = complement(data, cell_count(size))
    sender = Sender(size, Plan(tuple(data), tuple(zero)), 1, window_bytes=WINDOW_BYTES)
    receiver = Receiver(size, 1, CellTable(size), unwritten_is_zero=True)
    digest = b"\x01" * 16
    began = time.monotonic()
    while not sender.durable:
        batch = sender.assign(0, 16 << 20)
        if batch is None:
            flushed = receiver.make_durable(receiver.start_flush())
            for run in flushed:
                sender.on_ack(Frame(FrameKind.DURABLE, 1, run.first, run.count))
            continue
        for run in batch.zero:
            sender.on_ack(receiver.written(Frame(FrameKind.ZERO, 1, run.first, run.count)))
            sender.reported(0, run.first, None)
        for run in batch.data:
            for cell in range(run.first, run.end):
                sender.on_ack(receiver.written(Frame(FrameKind.DATA, 1, cell, 1, CELL_BYTES, 1, digest, b"")))
                sender.reported(0, cell, digest)
    elapsed = time.monotonic() - began
    assert sender.sent.count(CellState.DATA) == sender.sent.count(CellState.ZERO) == count
    receiver.check_seal(*sender.seal_counts())
    assert elapsed < 60, f"{elapsed:.1f} s"
    print(f"{elapsed:.1f} s")


@pytest.mark.parametrize("size", [0, 511, CELL_BYTES - 1, CELL_BYTES, CELL_BYTES + 1, (2 << 40) + 512, 8 << 40])
def test_a_disk_of_zeros_is_one_frame_whatever_its_size(size: int) -> None:
    """D8. Not even 2 TiB and a sector, or 8 TiB, cost more."""
    cells = cell_count(size)
    zero = (Run(0, cells),) if cells else ()
    sender = Sender(size, Plan((), zero), 1, window_bytes=WINDOW_BYTES)
    batch = sender.assign(0, 1)
    if not cells:
        assert batch is None
    else:
        assert batch is not None
        assert batch.zero == zero
        sender.reported(0, 0, None)
        sender.on_ack(Frame(FrameKind.RECEIVED, 1, 0, cells))
        sender.on_ack(Frame(FrameKind.DURABLE, 1, 0, cells))
    assert sender.durable
    assert sender.covered_bytes() == sender.durable_bytes == size
