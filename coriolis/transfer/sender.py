"""The source's side of a pass: which cells are still to be sent, which are on the way, which are durable.

No I/O and no clock. A shell hands out work to lanes with ``assign``, reports each cell that a lane has sent
(``reported``), and feeds acks back (``on_ack``); report and ack of a cell may come in either order. Two bounds hold at
all times: at most ``window_bytes`` are assigned without a RECEIVED, which is also what a crash can cost to send again,
and at most ``undurable_bytes`` are without a DURABLE.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from coriolis.errors import Corrupt, InvalidInput
from coriolis.transfer.cells import CELL_BYTES, Run, cell_length, runs_bytes
from coriolis.transfer.codec import Frame, FrameKind
from coriolis.transfer.table import CellState, CellTable, runs_where

MAX_UNDURABLE_BYTES = 512 << 20
"""Twice what the sink flushes at once, so that sending goes on while it does."""
ZERO_FRAME_COST_BYTES = 4 << 10
MAX_ZERO_RUNS_PER_BATCH = 64
MAX_REJECTS_PER_CELL = 5
"""A cell that arrives corrupted this often means broken hardware, not noise."""


class Plan(msgspec.Struct, frozen=True):
    """What a pass has to cover: disjoint runs. ``data`` is read and sent, ``zero`` is announced."""

    data: tuple[Run, ...]
    zero: tuple[Run, ...] = ()

    def total_bytes(self, size_bytes: int) -> int:
        return runs_bytes(self.data, size_bytes) + runs_bytes(self.zero, size_bytes)


class Batch(msgspec.Struct, frozen=True):
    """Work for one lane: cells to read and send, and zero runs to announce."""

    data: tuple[Run, ...] = ()
    zero: tuple[Run, ...] = ()


class SenderStats(msgspec.Struct):
    """Bytes. ``sent``: payloads before compression; ``wire``: as they travelled; ``packed``/``unpacked``: of the
    compressed payloads only."""

    read_bytes: int = 0
    sent_bytes: int = 0
    wire_bytes: int = 0
    packed_bytes: int = 0
    unpacked_bytes: int = 0
    zero_bytes: int = 0
    resent_bytes: int = 0


class _Flight(msgspec.Struct):
    lane: int
    cost: int
    length: int
    count: int
    zero: bool
    reported: bool = False
    received: bool = False
    durable: bool = False


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
        span_bytes: int | None = None,
    ) -> None:
        """``span_bytes``: how far apart on the disk cells on the way may be; None: as far as it comes."""
        self.size_bytes = size_bytes
        self.generation = generation
        self.sent = CellTable(size_bytes)
        """What was sent in this pass, digests included (skipped cells are put in by ``skip``)."""
        self.stats = SenderStats()
        self.durable_bytes = 0
        self._window_bytes = window_bytes
        self._undurable_bytes = undurable_bytes
        self._span_bytes = span_bytes
        self._total_bytes = plan.total_bytes(size_bytes)
        # per cell: the CellState that it shall get, UNKNOWN once it was assigned or skipped
        self._wanted: npt.NDArray[np.uint8] = np.zeros(self.sent.cells, dtype=np.uint8)
        for runs, state in ((plan.data, CellState.DATA), (plan.zero, CellState.ZERO)):
            for run in runs:
                self._wanted[run.first : run.end] = state
        self._queues: tuple[deque[Run], deque[Run]] | None = None
        self._waiting_bytes = self._total_bytes
        self._flights: dict[int, _Flight] = {}
        self._flying_bytes = 0
        self._flying_cost = 0
        self._lane_cost: dict[int, int] = {}
        self._undurable: dict[int, tuple[int, Run]] = {}
        self._undurable_cost = 0
        self._rejects: dict[int, int] = {}

    # -- how far ------------------------------------------------------------------------------------------------

    @property
    def in_flight_bytes(self) -> int:
        """Cost of what was assigned and not received; at most the window."""
        return self._flying_cost

    @property
    def undurable_sent_bytes(self) -> int:
        return self._undurable_cost

    @property
    def exhausted(self) -> bool:
        """Everything was sent and received; only durability may be outstanding."""
        return not (self._waiting_bytes or self._flights)

    @property
    def durable(self) -> bool:
        """Everything that was sent is durable at the sink."""
        return self.exhausted and not self._undurable

    @property
    def next_cell(self) -> int | None:
        """Where reading goes on; None while cells that are read are on the way, or when none is left."""
        data, _ = self._queues or self._fill_queues()
        return data[0].first if data and all(flight.zero for flight in self._flights.values()) else None

    def covered_bytes(self) -> int:
        """Bytes of the pass that the sink has received, skipped ones included. Never decreases."""
        return self._total_bytes - self._waiting_bytes - self._flying_bytes

    # -- what to send -------------------------------------------------------------------------------------------

    def skip(self, table: CellTable, runs: Iterable[Run]) -> None:
        """Leave out ``runs``: they are durable at the sink and ``table`` knows what they held.

        Only narrows the plan: cells outside it are ignored.
        """
        skipped = 0
        for run in runs:
            states, digests = table.get_run(run)
            found = np.frombuffer(states, dtype=np.uint8)
            wanted = self._wanted[run.first : run.end]
            chosen = (wanted != CellState.UNKNOWN) & (found != CellState.UNKNOWN)
            if not chosen.any():
                continue
            wanted[chosen] = CellState.UNKNOWN
            self.sent.set_chosen(run, chosen, states, digests)
            count = int(np.count_nonzero(chosen))
            last = run.end == self.sent.cells and bool(chosen[-1])
            skipped += count * CELL_BYTES - (CELL_BYTES - cell_length(run.end - 1, self.size_bytes) if last else 0)
        if skipped:
            self._waiting_bytes -= skipped
            self.durable_bytes += skipped
            self._queues = None

    def assign(self, lane: int, most_bytes: int) -> Batch | None:
        """Work of about ``most_bytes`` (at least a cell) for ``lane``; None while a bound is reached or nothing is
        left. It counts as on the way from now on."""
        data, zero = self._queues or self._fill_queues()
        zeros: list[Run] = []
        while zero and len(zeros) < MAX_ZERO_RUNS_PER_BATCH and self._room(ZERO_FRAME_COST_BYTES):
            run = zero.popleft()
            zeros.append(run)
            self._launch(run, lane, ZERO_FRAME_COST_BYTES, zero=True)
        cells: list[Run] = []
        left, end = most_bytes, self._span_end(data)
        while data and (left > 0 or not (cells or zeros)):
            run = data.popleft()
            length = cell_length(run.first, self.size_bytes)
            if run.first >= end or not self._room(length):
                data.appendleft(run)
                break
            if run.count > 1:
                data.appendleft(Run(run.first + 1, run.count - 1))
            self._launch(Run(run.first, 1), lane, length, zero=False)
            left -= length
            if cells and cells[-1].end == run.first:
                cells[-1] = Run(cells[-1].first, cells[-1].count + 1)
            else:
                cells.append(Run(run.first, 1))
        return Batch(tuple(cells), tuple(zeros)) if cells or zeros else None

    def _fill_queues(self) -> tuple[deque[Run], deque[Run]]:
        queues = (
            deque(runs_where(self._wanted == CellState.DATA)),
            deque(runs_where(self._wanted == CellState.ZERO)),
        )
        self._queues = queues
        return queues

    def _span_end(self, data: deque[Run]) -> int:
        """The first cell that is too far from the lowest one on the way."""
        if self._span_bytes is None or not data:
            return self.sent.cells
        lowest = min((cell for cell, flight in self._flights.items() if not flight.zero), default=data[0].first)
        return min(lowest, data[0].first) + max(1, self._span_bytes // CELL_BYTES)

    def _room(self, cost: int) -> bool:
        return self._flying_cost + cost <= self._window_bytes and self._undurable_cost + cost <= self._undurable_bytes

    def _launch(self, run: Run, lane: int, cost: int, *, zero: bool) -> None:
        length = runs_bytes([run], self.size_bytes)
        self._wanted[run.first : run.end] = CellState.UNKNOWN
        self._waiting_bytes -= length
        self._flights[run.first] = _Flight(lane, cost, length, run.count, zero)
        self._flying_bytes += length
        self._flying_cost += cost
        self._lane_cost[lane] = self._lane_cost.get(lane, 0) + cost
        before, _ = self._undurable.get(run.first, (0, run))
        self._undurable_cost += cost - before
        self._undurable[run.first] = (cost, run)

    # -- what happened ------------------------------------------------------------------------------------------

    def reported(
        self,
        lane: int,
        cell: int,
        digest: bytes | None,
        *,
        payload_bytes: int = 0,
        wire_bytes: int = 0,
        read_bytes: int = 0,
        packed: bool = False,
    ) -> list[Run]:
        """``lane`` has put a cell (or the zero run that begins there) on the wire; ``digest`` None means zeros.

        Returns the runs that are durable by it (their acks came first). A report of a lane that lost the cell
        meanwhile only counts its bytes.
        """
        stats = self.stats
        stats.read_bytes += read_bytes
        stats.sent_bytes += payload_bytes
        stats.wire_bytes += wire_bytes
        if packed:
            stats.packed_bytes += wire_bytes
            stats.unpacked_bytes += payload_bytes
        flight = self._flights.get(cell)
        if flight is None or flight.lane != lane or flight.reported:
            stats.resent_bytes += payload_bytes
            return []
        flight.reported = True
        run = Run(cell, flight.count)
        if digest is None:
            stats.zero_bytes += flight.length
            self.sent.set_zero(run)
        else:
            self.sent.set_data(cell, digest)
        return self._settle(cell, flight)

    def on_ack(self, ack: Frame) -> list[Run]:
        """Take a RECEIVED, DURABLE or REJECTED; returns the runs that became durable by it.

        Acks of another generation are ignored. Raises Corrupt after 5 rejects of a cell, and for cells that the disk
        does not have.
        """
        if ack.generation != self.generation:
            return []
        if ack.count < 1 or ack.count > self.sent.cells - ack.cell:
            raise Corrupt(f"the sink acknowledges cells {ack.cell}+{ack.count}, the disk has {self.sent.cells}")
        if ack.kind is FrameKind.REJECTED:
            self._rejected(ack.cell)
            return []
        if ack.kind is FrameKind.RECEIVED:
            flight = self._flights.get(ack.cell)
            if flight is not None:
                flight.received = True
                return self._settle(ack.cell, flight)
            return []
        if ack.count <= len(self._undurable):
            cells = [cell for cell in range(ack.cell, ack.cell + ack.count) if cell in self._undurable]
        else:
            cells = [cell for cell in self._undurable if ack.cell <= cell < ack.cell + ack.count]
        return [run for cell in cells for run in self._made_durable(cell)]

    def _made_durable(self, cell: int) -> list[Run]:
        flight = self._flights.get(cell)
        if flight is not None:
            # the same cell of the same snapshot has the same bytes: an earlier copy's durability is this one's
            flight.received = flight.durable = True
            if not flight.reported:
                return []
            self._land(cell, flight)
        cost, run = self._undurable.pop(cell)
        self._undurable_cost -= cost
        self.durable_bytes += runs_bytes([run], self.size_bytes)
        return [run]

    def _settle(self, cell: int, flight: _Flight) -> list[Run]:
        if not (flight.reported and flight.received):
            return []
        self._land(cell, flight)
        return self._made_durable(cell) if flight.durable else []

    def _land(self, cell: int, flight: _Flight) -> None:
        if self._flights.pop(cell, None) is not None:
            self._flying_bytes -= flight.length
            self._flying_cost -= flight.cost
            self._lane_cost[flight.lane] -= flight.cost

    def _rejected(self, cell: int) -> None:
        flight = self._flights.get(cell)
        if flight is None:
            return
        self._rejects[cell] = self._rejects.get(cell, 0) + 1
        if self._rejects[cell] >= MAX_REJECTS_PER_CELL:
            raise Corrupt(f"cell {cell} arrived damaged {MAX_REJECTS_PER_CELL} times")
        self._requeue(cell, flight)

    def _requeue(self, cell: int, flight: _Flight) -> None:
        self._land(cell, flight)
        cost, run = self._undurable.pop(cell)
        self._undurable_cost -= cost
        self.sent.forget([run])
        self._waiting_bytes += flight.length
        self._wanted[run.first : run.end] = CellState.ZERO if flight.zero else CellState.DATA
        if self._queues is not None:
            self._queues[1 if flight.zero else 0].appendleft(run)
        if flight.reported and not flight.zero:
            self.stats.resent_bytes += flight.length

    def lane_lost(self, lane: int) -> None:
        """Send again, on other lanes, what was on the way on ``lane``."""
        for cell, flight in [item for item in self._flights.items() if item[1].lane == lane]:
            self._requeue(cell, flight)

    def lane_cost(self, lane: int) -> int:
        """What is on the way on ``lane``, as counted against the window."""
        return self._lane_cost.get(lane, 0)

    def seal_counts(self) -> tuple[int, int, bytes]:
        """(data cells, zero cells, aggregate digest) of the pass; only when ``exhausted``."""
        if not self.exhausted:
            raise InvalidInput("the pass is not exhausted")
        return self.sent.count(CellState.DATA), self.sent.count(CellState.ZERO), self.sent.aggregate_digest()
