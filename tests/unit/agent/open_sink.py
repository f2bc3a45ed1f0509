"""One sink without a source: opened, and given cells as a lane's thread gives them."""

from __future__ import annotations

import asyncio
from typing import Any

from coriolis.agent.disk_journal import DiskJournal
from coriolis.agent.notary import Notary
from coriolis.agent.sink_disk import SinkDisk
from coriolis.model.resource import Volume
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import data_frame, decode, encode
from tests.unit.agent.pair import MemoryVolume, content

MIB = 1 << 20
GENERATION = 3
DISK = content(8 * MIB, [(0, 8 * MIB)])


def opened_sink(
    journal: DiskJournal, volume: MemoryVolume, manifest: Any = None, notary: Notary | None = None
) -> SinkDisk:
    where = Volume("v", "v", volume.size, False)
    sink = SinkDisk("t", "d", GENERATION, 1, where, volume, journal, manifest, notary=notary)
    sink.open(
        pb.OpenDiskRequest(
            transfer_id="t",
            disk_id="d",
            generation=GENERATION,
            pass_number=1,
            size_bytes=volume.size,
            snapshot_identity="s",
            cell_bytes=CELL_BYTES,
        )
    )
    return sink


async def take(sink: SinkDisk, cell: int) -> None:
    """A cell of DISK, as a lane's thread gets it; written and noted at the return."""
    frame = data_frame(GENERATION, cell, DISK[cell * MIB : (cell + 1) * MIB])
    await asyncio.to_thread(sink.take_here, decode(encode(frame)))
    assert sink.receiver.has_unflushed
