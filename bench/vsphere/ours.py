"""One run of ours, in a process of its own: ``python -m bench.vsphere.ours WHAT CONNECTION_INFO`` prints one JSON line.

The clock starts when the provider is connected and its modules are loaded, as it is in a task, and stops with the last
byte.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.measure import peak_rss
from bench.vsphere.simulated import NAME
from coriolis.agent.lanes.malloc import keep_freed_memory
from coriolis.agent.lanes.read_ahead import MAX_PIECE_BYTES, PIECES_AHEAD
from coriolis.providers.base import BlockReader, Page
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from coriolis.transfer.lane_count import first_lanes

IN_FLIGHT = first_lanes(0.0) * PIECES_AHEAD
SNAPSHOT = "coriolis-bench"


async def read_through(reader: BlockReader) -> int:
    """Bytes read, in order, as lanes ask: pieces of their full size, as many at once as the lanes of a short path have
    under way."""
    places = iter(range(0, reader.size, MAX_PIECE_BYTES))

    async def work() -> int:
        done = 0
        for at in places:
            done += len(await reader.read_at(at, min(MAX_PIECE_BYTES, reader.size - at)))
        return done

    return sum(await asyncio.gather(*(work() for _ in range(IN_FLIGHT))))


async def read_disks(info: dict[str, Any], way: str, disks: int) -> dict[str, float]:
    """The first ``disks`` disks of the machine at once."""
    around = Surroundings(environment={"disk_transport": way, "change_tracking": "as_is"})
    async with VsphereProvider().connect(info, around) as connection:
        source = connection.snapshots
        assert source is not None
        spec = await connection.inventory.get_instance(NAME)
        snapshot = await source.create_snapshot(spec.id, SNAPSHOT, None)
        try:

            async def one(disk_id: str) -> int:
                async with source.open_reader(snapshot, disk_id) as reader:
                    return await read_through(reader)

            began = time.monotonic()
            done = await asyncio.gather(*(one(disk.disk_id) for disk in snapshot.disks[:disks]))
            seconds = time.monotonic() - began
        finally:
            await source.delete_change_base(spec.id, SNAPSHOT)
    return {"seconds": seconds, "bytes": sum(done)}


async def read_inventory(info: dict[str, Any]) -> dict[str, float]:
    """All machines, page by page, with their disks, networks and addresses."""
    async with VsphereProvider().connect(info) as connection:
        began, marker, count = time.monotonic(), "", 0
        while page := await connection.inventory.list_instances(Page(marker=marker)):
            count, marker = count + len(page), page[-1].id
        return {"seconds": time.monotonic() - began, "machines": count}


def main() -> None:
    keep_freed_memory()  # as in every task
    what, info = sys.argv[1], json.loads(sys.argv[2])
    match what:
        case "inventory":
            found = asyncio.run(read_inventory(info))
        case "datastore":
            found = asyncio.run(read_disks(info, what, 1))
        case _:
            found = asyncio.run(read_disks(info, "export", int(what.removeprefix("export-"))))
    found["rss"] = peak_rss(Path("/proc/self/status").read_text())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
