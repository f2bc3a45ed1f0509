"""One run of ours, in a process of its own: ``python -m bench.vsphere.ours WHAT CONNECTION_INFO`` prints one JSON line.

The clock starts when the provider is connected and its modules are loaded, as it is in a task, and stops with the last
byte.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from bench.measure import peak_rss
from bench.vsphere.simulated import NAME
from coriolis.agent.lanes.loop_io import LoopReader
from coriolis.agent.lanes.malloc import keep_freed_memory
from coriolis.agent.lanes.read_ahead import AheadRoom
from coriolis.agent.push_disk import BATCH_BYTES
from coriolis.providers.base import BlockReader, Page
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.lane_count import first_lanes

LANES = first_lanes(0.0)
GIVEN_BATCHES = 2
"""The batch that a lane is at, and the one behind it."""
SNAPSHOT = "coriolis-bench"


async def read_through(reader: BlockReader, room: AheadRoom) -> int:
    """Bytes read by as many lanes as a short path gets, which do nothing else: cell by cell, in the batches in which
    they are given work."""
    disk, size = LoopReader(reader, asyncio.get_running_loop(), room), reader.size
    batches = iter(range(0, size, BATCH_BYTES))

    def one_lane() -> int:
        lane, room, done = disk.for_lane(), memoryview(bytearray(CELL_BYTES)), 0
        given: deque[int] = deque()
        while True:
            for begin in islice(batches, GIVEN_BATCHES - len(given)):
                lane.expect(begin, min(BATCH_BYTES, size - begin))
                given.append(begin)
            if not given:
                return done
            begin = given.popleft()
            for at in range(begin, min(begin + BATCH_BYTES, size), CELL_BYTES):
                lane.read_into(at, room[: size - at])
                done += min(CELL_BYTES, size - at)

    with ThreadPoolExecutor(LANES) as threads:
        loop = asyncio.get_running_loop()
        return sum(await asyncio.gather(*(loop.run_in_executor(threads, one_lane) for _ in range(LANES))))


async def read_disks(info: dict[str, Any], way: str, disks: int) -> dict[str, float]:
    """The first ``disks`` disks of the machine at once."""
    around = Surroundings(environment={"disk_transport": way, "change_tracking": "as_is"})
    async with VsphereProvider().connect(info, around) as connection:
        source = connection.snapshots
        assert source is not None
        spec = await connection.inventory.get_instance(NAME)
        snapshot = await source.create_snapshot(spec.id, SNAPSHOT, None)
        try:
            room = AheadRoom()

            async def one(disk_id: str) -> int:
                async with source.open_reader(snapshot, disk_id) as reader:
                    return await read_through(reader, room)

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
