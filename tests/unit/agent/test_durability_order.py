"""I8: flush, journal, acknowledge, in this order, whenever the sink is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.sink_disk import AckQueue
from coriolis.errors import InvalidInput
from coriolis.transfer.cells import Run
from coriolis.transfer.codec import FrameKind, decode_acks
from tests.unit.agent.open_sink import DISK, MIB, opened_sink, take
from tests.unit.agent.pair import Lab

MakeLab = Callable[[int], Lab]


class Killed(BaseException):
    """kill -9 between two steps."""


def told_durable(listener: AckQueue) -> set[int]:
    cells: set[int] = set()
    while not listener.empty():
        message = listener.get_nowait()
        assert isinstance(message, bytes)
        for ack in decode_acks(message):
            if ack.kind is FrameKind.DURABLE:
                cells |= set(range(ack.cell, ack.cell + ack.count))
    return cells


@pytest.mark.parametrize("die_at", ["before flush", "in flush", "before journal", "after journal", "never"])
async def test_nothing_acknowledged_as_durable_is_lost_by_a_kill(
    lab: MakeLab, monkeypatch: pytest.MonkeyPatch, die_at: str
) -> None:
    here = lab(len(DISK))
    volume = here.volume
    journal = DiskJournal(here.sink_journal)
    sink = opened_sink(journal, volume, here.manifest)
    acks = sink.listen()
    real = DiskJournal.append_ranges

    def append(self: DiskJournal, table: Any, runs: list[Run]) -> None:
        assert volume.safe == bytes(volume.now), "journalled before it was flushed"
        if die_at == "before journal" and volume.flushes > 1:
            raise Killed
        real(self, table, runs)
        if die_at == "after journal" and volume.flushes > 1:
            raise Killed

    def flush() -> None:
        if die_at == "in flush" and volume.flushes == 1:
            raise Killed

    monkeypatch.setattr(DiskJournal, "append_ranges", append)
    volume.before_flush = flush
    for cell in range(4):
        await take(sink, cell)
    assert told_durable(acks) == set(), "received is not durable"
    await sink.flush()
    for cell in range(4, 8):
        await take(sink, cell)
    try:
        if die_at != "before flush":
            await sink.flush()
    except Killed:
        pass
    promised = told_durable(acks)
    later = sink.listen()  # a source that reconnects just then is promised no more
    assert told_durable(later) == promised
    assert promised == (set(range(8)) if die_at == "never" else set(range(4)))
    volume.power_cut()
    journal.close()
    for cell in promised:
        assert volume.now[cell * MIB : (cell + 1) * MIB] == DISK[cell * MIB : (cell + 1) * MIB]
    with DiskJournal(here.sink_journal) as again:
        table = again.state.table
        assert table is not None
        known = {cell for run_ in table.known_runs() for cell in range(run_.first, run_.end)}
        assert promised <= known
        for cell in known:  # and what the journal knows is there, acknowledged or not
            assert volume.now[cell * MIB : (cell + 1) * MIB] == DISK[cell * MIB : (cell + 1) * MIB]


async def test_a_failed_flush_is_tried_again_with_all_it_had(lab: MakeLab) -> None:
    here = lab(len(DISK))
    with DiskJournal(here.sink_journal) as journal:
        sink = opened_sink(journal, here.volume, here.manifest)
        acks = sink.listen()
        await take(sink, 0)
        failures = iter([InvalidInput("not now")])

        def fail() -> None:
            for failure in failures:
                raise failure

        here.volume.before_flush = fail
        with pytest.raises(InvalidInput):
            await sink.flush()
        assert told_durable(acks) == set()
        await sink.flush()
        assert told_durable(acks) == {0}
