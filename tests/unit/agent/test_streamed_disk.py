"""A disk that comes from its front to its back only, like an export: no stall on the way, nothing read twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from coriolis.agent import push_disk, sink_disk
from coriolis.agent.lanes import sink_host
from coriolis.providers.base import span_of
from coriolis.providers.layers.throttle import throttled
from coriolis.transfer.cells import Run
from coriolis.transfer.codec import Frame, FrameKind
from coriolis.transfer.sender import Plan, Sender
from tests.unit.agent.pair import Lab, MemorySnapshot, content, full_plan

MIB = 1 << 20
MakeLab = Callable[[int], Lab]


class Streamed(MemorySnapshot):
    """Passes by at ``bytes_per_s``."""

    span_bytes = 4 * MIB

    def __init__(self, content: bytes, bytes_per_s: float) -> None:
        super().__init__(content)
        self._began, self._rate = time.monotonic(), bytes_per_s

    async def read_at(self, offset: int, length: int) -> bytes:
        await asyncio.sleep(self._began + (offset + length) / self._rate - time.monotonic())
        return await super().read_at(offset, length)


async def test_the_way_to_a_cell_far_ahead_is_no_stall(lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later pass of an export: what did not change must pass by, terabytes of it, before the next cell comes."""
    monkeypatch.setattr(sink_disk, "FLUSH_INTERVAL_S", 0.2)
    monkeypatch.setattr(push_disk, "STALL_S", 5.0)
    monkeypatch.setattr(push_disk, "LANE_STALL_S", 4.0)
    disk = content(64 * MIB, [(0, 2 * MIB), (40 * MIB, 2 * MIB)])
    here = lab(64 * MIB)
    await here.send(Streamed(disk, 4 * MIB), full_plan(disk))
    assert here.volume.safe == disk


async def test_lanes_that_the_sink_ends_meanwhile_are_no_failures(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_host, "SILENCE_S", 1.0)
    monkeypatch.setattr(push_disk, "MAX_FAILURES_IN_A_ROW", 2)
    disk = content(64 * MIB, [(0, MIB), (40 * MIB, MIB)])
    here = lab(64 * MIB)
    here.transport = "direct"
    await here.send(Streamed(disk, 5 * MIB), full_plan(disk))
    assert here.volume.safe == disk


def test_cells_on_the_way_are_near_to_each_other() -> None:
    """What the stream has passed and dropped costs the whole way again: no lane may be given what is far ahead."""
    cells = (0, 2, 5, 6, 9)
    plan = Plan(tuple(Run(cell, 1) for cell in cells))
    sender = Sender(48 * MIB, plan, 1, window_bytes=48 * MIB, span_bytes=4 * MIB)
    order = []
    while not sender.exhausted:
        assert sender.next_cell in cells
        batch = sender.assign(1, 8 * MIB)
        assert batch is not None
        assert sender.assign(2, 8 * MIB) is None, "the rest is too far ahead"
        assert sender.next_cell is None
        order.append([cell for run in batch.data for cell in range(run.first, run.end)])
        for cell in order[-1]:
            sender.reported(1, cell, bytes(16))
            sender.on_ack(Frame(FrameKind.RECEIVED, 1, cell))
    assert order == [[0, 2], [5, 6], [9]]


def test_a_limit_on_reading_changes_nothing_of_that() -> None:
    plain, streamed = MemorySnapshot(b""), Streamed(b"", 1)
    assert span_of(plain) is span_of(throttled(plain, 1)) is None
    assert span_of(throttled(streamed, 1)) == streamed.span_bytes
