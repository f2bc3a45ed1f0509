"""The sink's side of a pass: what may be written, what was written, what is durable.

No I/O: a shell feeds frames in, carries out the returned writes, reports them back, and flushes when told. The order
is fixed: digest checked, then written, then volume flushed, then journalled, then DURABLE acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from coriolis.errors import Corrupt, StaleGeneration
from coriolis.transfer.cells import CELL_BYTES, Run, cell_count, cell_length, merge_runs, runs_bytes
from coriolis.transfer.codec import (
    Frame,
    FrameKind,
    blocks_bytes,
    cell_content,
    check_bounds,
    encode_acks,
    present_blocks,
)
from coriolis.transfer.table import CellState, CellTable

WINDOW_BYTES = 48 << 20
"""Assigned and not received, per disk: 50 ms at 1 GB/s; also what the loss of every lane can cost to send again."""
FLUSH_BYTES = 256 << 20
"""Flush after this much; the sender's bound on what is not durable is twice that."""
FLUSH_INTERVAL_S = 5.0
MAX_REMEMBERED_REJECTS = 1024
"""Cells refused and not yet written; only an ack lost with its stream makes it matter."""


class Write(msgspec.Struct, frozen=True):
    offset: int
    data: bytes | memoryview


class Zero(msgspec.Struct, frozen=True):
    offset: int
    length: int


class Accepted(msgspec.Struct, frozen=True):
    """Carry out ``operations`` in order, then call ``Receiver.written(frame)``."""

    frame: Frame
    operations: tuple[Write | Zero, ...]


class Intake:
    """Decides what a frame writes. One per disk and process, for all of its threads; ``touched`` is shared by all.

    ``touched`` has a byte for each cell: 0 while the cell reads as zero because nothing ever wrote it.
    """

    def __init__(self, size_bytes: int, generation: int, touched: npt.NDArray[np.uint8]) -> None:
        self.size_bytes = size_bytes
        self.generation = generation
        self.touched = touched
        self._cells = cell_count(size_bytes)

    def accept(self, frame: Frame) -> Accepted:
        """The writes that ``frame`` asks for.

        Raises StaleGeneration for another generation (drop it) and Corrupt for a damaged or impossible frame
        (answer REJECTED); in both cases nothing may be written.
        """
        if frame.generation != self.generation:
            raise StaleGeneration(f"chunk of generation {frame.generation}, this sink serves {self.generation}")
        if frame.kind not in (FrameKind.DATA, FrameKind.ZERO):
            raise Corrupt(f"a {frame.kind.name} frame was sent to a sink")
        check_bounds(frame, self.size_bytes, self._cells)
        if frame.kind is FrameKind.ZERO:
            return Accepted(frame, self._zero_operations(Run(frame.cell, frame.count)))
        content = cell_content(frame)
        start = frame.cell * CELL_BYTES
        blank = not self.touched[frame.cell]
        self.touched[frame.cell] = 1
        if blank:
            view = memoryview(content)
            writes = tuple(
                Write(start + offset, view[offset : offset + size])
                for offset, size in present_blocks(frame.bitmap, frame.length)
            )
            return Accepted(frame, writes)
        return Accepted(frame, (Write(start, content),))

    def _zero_operations(self, run: Run) -> tuple[Zero, ...]:
        if not self.touched[run.first : run.end].any():
            return ()
        start = run.first * CELL_BYTES
        return (Zero(start, min(run.end * CELL_BYTES, self.size_bytes) - start),)


def initially_touched(table: CellTable, *, unwritten_is_zero: bool) -> npt.NDArray[np.uint8]:
    """``Intake.touched`` of a new attempt: cells that ``table`` knows, and all of them unless the volume is new."""
    if not unwritten_is_zero:
        return np.ones(table.cells, dtype=np.uint8)
    return np.frombuffer(table.known_mask(), dtype=np.uint8).copy()


class Receiver:
    """State of one disk in one pass on one generation.

    ``table`` holds what is already durable in this pass (from the journal); ``unwritten_is_zero`` means that cells
    never written since the volume was made read as zero, so that announcing them costs no write.
    """

    def __init__(
        self,
        size_bytes: int,
        generation: int,
        table: CellTable,
        touched: npt.NDArray[np.uint8] | None = None,
        *,
        unwritten_is_zero: bool = False,
    ) -> None:
        self.size_bytes = size_bytes
        self.generation = generation
        self.table = table
        if touched is None:
            touched = initially_touched(table, unwritten_is_zero=unwritten_is_zero)
        self.intake = Intake(size_bytes, generation, touched)
        self.written_bytes = 0
        self.zero_bytes = 0
        self._rejected: dict[int, int] = {}
        self._unflushed: dict[int, Frame] = {}
        self._unflushed_bytes = 0

    @property
    def flush_due(self) -> bool:
        return self._unflushed_bytes >= FLUSH_BYTES

    @property
    def has_unflushed(self) -> bool:
        return bool(self._unflushed)

    def accept(self, frame: Frame) -> Accepted:
        """As ``Intake.accept``."""
        return self.intake.accept(frame)

    def written(self, frame: Frame) -> Frame:
        """Record that the operations of ``frame`` were carried out; returns the RECEIVED ack."""
        if frame.kind is FrameKind.DATA:
            cost = blocks_bytes(frame.bitmap, frame.length)
            self.written_bytes += cost
        else:
            self.zero_bytes += runs_bytes([Run(frame.cell, frame.count)], self.size_bytes)
            cost = 0
        self._rejected.pop(frame.cell, None)
        self._unflushed[frame.cell] = msgspec.structs.replace(frame, payload=b"")
        self._unflushed_bytes += cost
        return Frame(FrameKind.RECEIVED, self.generation, frame.cell, frame.count)

    def equal(self, cell: int, digest: bytes) -> None:
        """Record that a cell, by comparison, already holds what the source has."""
        if digest:
            frame = Frame(FrameKind.DATA, self.generation, cell, 1, cell_length(cell, self.size_bytes), 0, digest)
            self.intake.touched[cell] = 1
        else:
            frame = Frame(FrameKind.ZERO, self.generation, cell)
        self._unflushed[cell] = frame

    def start_flush(self) -> tuple[Frame, ...]:
        """What the flush that starts now will make durable; writes from now on belong to the next one."""
        batch = tuple(self._unflushed.values())
        self._unflushed.clear()
        self._unflushed_bytes = 0
        return batch

    def flush_failed(self, batch: Sequence[Frame]) -> None:
        """Put a batch back whose flush or journal write failed."""
        for frame in batch:
            self._unflushed.setdefault(frame.cell, frame)

    def make_durable(self, batch: Sequence[Frame]) -> list[Run]:
        """Enter a flushed batch into the table; returns its runs, to be journalled before they are acknowledged."""
        runs = []
        for frame in batch:
            run = Run(frame.cell, frame.count)
            if frame.kind is FrameKind.DATA:
                self.table.set_data(frame.cell, frame.digest)
            else:
                self.table.set_zero(run)
            runs.append(run)
        return merge_runs(runs)

    def durable_acks(self, runs: Sequence[Run]) -> list[bytes]:
        """DURABLE messages for runs that are in the journal."""
        return encode_acks([Frame(FrameKind.DURABLE, self.generation, run.first, run.count) for run in runs])

    def known_acks(self) -> list[bytes]:
        """RECEIVED for all that is not durable yet, REJECTED for what is still missing: for a source that lost its
        stream of acks."""
        received = [
            Frame(FrameKind.RECEIVED, self.generation, each.cell, each.count) for each in self._unflushed.values()
        ]
        rejected = [Frame(FrameKind.REJECTED, self.generation, cell, count) for cell, count in self._rejected.items()]
        return encode_acks([*received, *rejected])

    def rejected(self, cell: int, count: int) -> Frame:
        """Record that a damaged frame of ``cell`` was refused; returns the REJECTED ack."""
        if len(self._rejected) < MAX_REMEMBERED_REJECTS:
            self._rejected[cell] = count
        return Frame(FrameKind.REJECTED, self.generation, cell, count)

    def check_seal(self, data_cells: int, zero_cells: int, aggregate_digest: bytes) -> None:
        """Raises Corrupt unless both sides agree on count, bytes and digest of the pass."""
        if self._unflushed:
            raise Corrupt("seal asked for while writes are not durable")
        ours = (self.table.count(CellState.DATA), self.table.count(CellState.ZERO))
        if ours != (data_cells, zero_cells):
            raise Corrupt(
                f"the source counts {data_cells} data and {zero_cells} zero cells, the sink {ours[0]} and {ours[1]}"
            )
        if self.table.aggregate_digest() != aggregate_digest:
            raise Corrupt("aggregate digests of source and sink differ")
