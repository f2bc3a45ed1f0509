"""The source's side of a pass: which cells are still to be sent, which are on the way, which are durable.

No I/O and no clock: a shell asks for ``next_work``, reads, sends, and feeds acks back. Two bounds hold at all times:
at most ``window_bytes`` were sent without a RECEIVED, and at most ``undurable_bytes`` without a DURABLE, which is
what a crash of the sink can cost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from coriolis.errors import Corrupt, InvalidInput
from coriolis.transfer.cells import Run, cell_length, merge_runs, runs_bytes, split_runs
from coriolis.transfer.codec import Frame, FrameKind, data_frame
from coriolis.transfer.table import CellState, CellTable

MAX_UNDURABLE_BYTES = 64 << 20
ZERO_FRAME_COST_BYTES = 4 << 10
MAX_REJECTS_PER_CELL = 5
"""A cell that arrives corrupted this often means broken hardware, not noise."""


class Plan(msgspec.Struct, frozen=True):
    """What a pass has to cover: disjoint runs. ``data`` is read and sent, ``zero`` is announced."""

    data: tuple[Run, ...]
    zero: tuple[Run, ...] = ()

    def total_bytes(self, size_bytes: int) -> int:
        return runs_bytes(self.data, size_bytes) + runs_bytes(self.zero, size_bytes)


class ReadCell(msgspec.Struct, frozen=True):
    cell: int


class SendZero(msgspec.Struct, frozen=True):
    run: Run


class SenderStats(msgspec.Struct):
    read_bytes: int = 0
    sent_bytes: int = 0
    zero_bytes: int = 0
    resent_bytes: int = 0


class Sender:
    """State of one disk in one pass on one generation."""

    def __init__(
        self,
        size_bytes: int,
        plan: Plan,
        generation: int,
        *,
        window_bytes: int,
        undurable_bytes: int = MAX_UNDURABLE_BYTES,
    ) -> None:
        self.size_bytes = size_bytes
        self.generation = generation
        self.sent = CellTable(size_bytes)
        """What was sent in this pass, digests included (skipped cells are put in by ``skip``)."""
        self.stats = SenderStats()
        self._window_bytes = window_bytes
        self._undurable_bytes = undurable_bytes
        self._planned = plan
        self._data: deque[Run] = deque(plan.data)
        self._zero: deque[Run] = deque(plan.zero)
        self._retry: deque[int] = deque()
        self._in_flight: dict[int, tuple[int, int]] = {}  # first cell -> (cost, lane)
        self._zero_runs: dict[int, Run] = {}
        self._undurable: dict[int, int] = {}  # first cell -> cost
        self._in_flight_cost = 0
        self._undurable_cost = 0
        self._reading = 0
        self._rejects: dict[int, int] = {}
        self.durable_bytes = 0

    @property
    def in_flight_bytes(self) -> int:
        return self._in_flight_cost

    @property
    def undurable_sent_bytes(self) -> int:
        return self._undurable_cost

    @property
    def exhausted(self) -> bool:
        """Everything was sent and received; only durability may be outstanding."""
        return not (self._data or self._zero or self._retry or self._in_flight or self._reading)

    @property
    def durable(self) -> bool:
        """Everything that was sent is durable at the sink."""
        return self.exhausted and not self._undurable

    def covered_bytes(self) -> int:
        """Bytes of the pass that the sink has received, skipped ones included. Never decreases."""
        waiting = runs_bytes(self._data, self.size_bytes) + runs_bytes(self._zero, self.size_bytes)
        cells = self._in_flight.keys() | set(self._retry)
        flying = sum(
            runs_bytes([self._zero_runs[c]], self.size_bytes)
            if c in self._zero_runs
            else cell_length(c, self.size_bytes)
            for c in cells
        )
        return self._planned.total_bytes(self.size_bytes) - waiting - flying - self._reading

    def skip(self, table: CellTable, runs: Iterable[Run]) -> None:
        """Leave out ``runs``: they are durable at the sink and ``table`` knows what they held.

        Only narrows the plan: cells outside it are ignored.
        """
        wanted = merge_runs(runs)
        self._data = deque(_subtract(self._data, wanted, self.sent, table))
        self._zero = deque(_subtract(self._zero, wanted, self.sent, table))
        self.durable_bytes = runs_bytes(self.sent.known_runs(), self.size_bytes)

    def next_work(self) -> ReadCell | SendZero | None:
        """The next thing to do, or None while a bound is reached or nothing is left. Accounts for it at once."""
        if self._zero and self._room(ZERO_FRAME_COST_BYTES):
            return SendZero(self._zero.popleft())
        if not (self._retry or self._data):
            return None
        cell = self._retry[0] if self._retry else self._data[0].first
        length = cell_length(cell, self.size_bytes)
        if not self._room(length + self._reading):
            return None
        if self._retry:
            self._retry.popleft()
        else:
            run = self._data.popleft()
            if run.count > 1:
                self._data.appendleft(Run(run.first + 1, run.count - 1))
        self._reading += length
        return ReadCell(cell)

    def _room(self, cost: int) -> bool:
        return (
            self._in_flight_cost + cost <= self._window_bytes and self._undurable_cost + cost <= self._undurable_bytes
        )

    def read_done(self, cell: int, data: bytes, lane: int) -> Frame:
        """The frame to send on ``lane`` for a cell that was read."""
        length = cell_length(cell, self.size_bytes)
        if len(data) != length:
            raise InvalidInput(f"cell {cell} was read with {len(data)} bytes instead of {length}")
        self._reading -= length
        self.stats.read_bytes += length
        frame = data_frame(self.generation, cell, data)
        if frame.kind is FrameKind.ZERO:
            self._launch_zero(Run(cell, 1), lane)
        else:
            self._launch(cell, length, lane)
            self.stats.sent_bytes += len(frame.payload)
            self.sent.set_data(cell, frame.digest)
        return frame

    def zero_frame(self, run: Run, lane: int) -> Frame:
        """The frame that announces a zero run."""
        self._launch_zero(run, lane)
        return Frame(FrameKind.ZERO, self.generation, run.first, run.count)

    def _launch_zero(self, run: Run, lane: int) -> None:
        self._launch(run.first, ZERO_FRAME_COST_BYTES, lane)
        self._zero_runs[run.first] = run
        self.stats.zero_bytes += runs_bytes([run], self.size_bytes)
        self.sent.set_zero(run)

    def _launch(self, cell: int, cost: int, lane: int) -> None:
        self._in_flight[cell] = (cost, lane)
        self._in_flight_cost += cost
        self._undurable_cost += cost - self._undurable.get(cell, 0)
        self._undurable[cell] = cost

    def on_ack(self, ack: Frame) -> None:
        """Take a RECEIVED, DURABLE or REJECTED. Acks of another generation are ignored.

        Raises Corrupt after 5 rejects of a cell, and for cells that the disk does not have.
        """
        if ack.generation != self.generation:
            return
        if ack.count < 1 or ack.count > self.sent.cells - ack.cell:
            raise Corrupt(f"the sink acknowledges cells {ack.cell}+{ack.count}, the disk has {self.sent.cells}")
        if ack.kind is FrameKind.RECEIVED:
            self._landed(ack.cell)
        elif ack.kind is FrameKind.DURABLE:
            for cell in (
                range(ack.cell, ack.cell + ack.count)
                if ack.count < len(self._undurable)
                else [c for c in list(self._undurable) if ack.cell <= c < ack.cell + ack.count]
            ):
                self._made_durable(cell)
        else:
            self._rejected(ack.cell)

    def _landed(self, cell: int) -> None:
        cost, _ = self._in_flight.pop(cell, (0, 0))
        self._in_flight_cost -= cost

    def _made_durable(self, cell: int) -> None:
        if cell in self._in_flight:
            return  # sent again meanwhile: only the newer copy's own ack counts
        cost = self._undurable.pop(cell, None)
        if cost is not None:
            self._undurable_cost -= cost
            run = self._zero_runs.pop(cell, None) or Run(cell, 1)
            self.durable_bytes += runs_bytes([run], self.size_bytes)

    def _rejected(self, cell: int) -> None:
        if cell not in self._in_flight:
            return
        self._rejects[cell] = self._rejects.get(cell, 0) + 1
        if self._rejects[cell] >= MAX_REJECTS_PER_CELL:
            raise Corrupt(f"cell {cell} arrived damaged {MAX_REJECTS_PER_CELL} times")
        self._requeue(cell)

    def _requeue(self, cell: int) -> None:
        cost, _ = self._in_flight.pop(cell)
        self._in_flight_cost -= cost
        self._undurable_cost -= self._undurable.pop(cell, 0)
        run = self._zero_runs.pop(cell, None)
        if run is not None:
            self.sent.forget([run])
            self._zero.appendleft(run)
        else:
            self.stats.resent_bytes += cost
            self.sent.forget([Run(cell, 1)])
            self._retry.append(cell)

    def lane_lost(self, lane: int) -> None:
        """Send again what was on the way on ``lane``."""
        for cell in [cell for cell, (_, on) in self._in_flight.items() if on == lane]:
            self._requeue(cell)

    def read_failed(self, cell: int) -> None:
        """Put a cell that could not be read back into the queue."""
        self._reading -= cell_length(cell, self.size_bytes)
        self._retry.append(cell)

    def seal_counts(self) -> tuple[int, int, bytes]:
        """(data cells, zero cells, aggregate digest) of the pass; only when ``exhausted``."""
        if not self.exhausted:
            raise InvalidInput("the pass is not exhausted")
        return self.sent.count(CellState.DATA), self.sent.count(CellState.ZERO), self.sent.aggregate_digest()


def _subtract(queue: Iterable[Run], skipped: list[Run], sent: CellTable, known: CellTable) -> list[Run]:
    """``queue`` without the cells of ``skipped`` that ``known`` knows; those are copied into ``sent``."""
    left: list[Run] = []
    for run in split_runs(queue, 1 << 16):
        position = run.first
        for skip in skipped:
            first, end = max(skip.first, position), min(skip.end, run.end)
            if first >= end:
                continue
            if first > position:
                left.append(Run(position, first - position))
            states, digests = known.get_run(Run(first, end - first))
            if CellState.UNKNOWN in states:
                left.append(Run(first, end - first))
            else:
                sent.set_run(Run(first, end - first), states, digests)
            position = end
        if position < run.end:
            left.append(Run(position, run.end - position))
    return merge_runs(left)
