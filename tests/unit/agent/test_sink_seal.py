"""The end of a pass at the sink, while something else still goes on: late copies of cells, a flush that is running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.notary import DiskPass, Notary
from coriolis.agent.signed_message import signed_message
from coriolis.agent.sink_disk import SinkDisk
from coriolis.errors import Corrupt
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.rpc.tls import TlsFiles
from coriolis.transfer.codec import Frame, FrameKind, cell_digest
from coriolis.transfer.table import CellTable
from tests.unit.agent.open_sink import DISK, GENERATION, MIB, opened_sink, take
from tests.unit.agent.pair import Lab, MemoryVolume, agent

MakeLab = Callable[[int], Lab]


class GatedVolume(MemoryVolume):
    """One of its flushes takes until it may end; the others are quick."""

    slow_one = 1

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.begun = 0
        self.flushing, self.may_flush = asyncio.Event(), asyncio.Event()

    async def flush(self) -> None:
        self.begun += 1
        if self.begun == self.slow_one:
            self.flushing.set()
            await self.may_flush.wait()
        await super().flush()


Seal = Callable[[SinkDisk], Coroutine[Any, Any, pb.SealDiskResponse]]


@pytest.fixture
async def seal(tls: dict[str, TlsFiles]) -> Seal:
    """The call of a source that sent all of DISK."""
    sent = CellTable(len(DISK))
    for cell in range(sent.cells):
        sent.set_data(cell, cell_digest(DISK[cell * MIB : (cell + 1) * MIB]))
    named = DiskPass("t", "d", 1, GENERATION, len(DISK), "s")
    signed = await Notary(tls["source"], agent("sink")).attest_pass(named, sent)
    request = pb.SealDiskRequest(
        generation=GENERATION,
        data_cells=sent.cells,
        zero_cells=0,
        aggregate_digest=sent.aggregate_digest(),
        source=signed_message(signed),
    )
    return lambda sink: sink.seal(request, tls["source"].cert.read_bytes())


async def full_sink(here: Lab, journal: DiskJournal) -> SinkDisk:
    sink = opened_sink(journal, here.volume, here.manifest, Notary(here.tls["sink"], agent("source")))
    for cell in range(len(DISK) // MIB):
        await take(sink, cell)
    return sink


async def test_a_flush_that_is_running_is_waited_for(lab: MakeLab, seal: Seal) -> None:
    here = lab(len(DISK))
    here.volume = volume = GatedVolume(len(DISK))
    with DiskJournal(here.sink_journal) as journal:
        sink = await full_sink(here, journal)
        running = asyncio.create_task(sink.flush())
        await volume.flushing.wait()
        assert not sink.receiver.has_unflushed, "all of it belongs to the flush that is running"
        sealing = asyncio.create_task(seal(sink))
        for _ in range(5):
            await asyncio.sleep(0)
        volume.may_flush.set()
        await sealing
        await running
        assert volume.safe == DISK


@pytest.mark.parametrize("late", ["same", "other"])
async def test_a_late_copy_of_a_cell_does_not_fail_the_seal_and_another_content_does(
    lab: MakeLab, seal: Seal, late: str
) -> None:
    """A lane that was lost, and whose cells were sent again on others, may still deliver what it had."""
    here = lab(len(DISK))
    here.volume = volume = GatedVolume(len(DISK))
    with DiskJournal(here.sink_journal) as journal:
        sink = await full_sink(here, journal)
        volume.slow_one = 2  # the first one of a seal is for what comparisons found equal
        sealing = asyncio.create_task(seal(sink))
        await volume.flushing.wait()
        if late == "same":
            await take(sink, 3)
        else:
            sink.receiver.written(Frame(FrameKind.ZERO, GENERATION, 3))
        volume.may_flush.set()
        if late == "same":
            await sealing
            assert volume.safe == DISK
        else:
            with pytest.raises(Corrupt):
                await sealing
            assert not sink.sealed.is_set()
