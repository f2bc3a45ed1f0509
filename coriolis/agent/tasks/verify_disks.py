"""VERIFY_DISKS: re-read finished volumes and compare every cell with the manifest kept by this agent."""

from __future__ import annotations

import asyncio
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.manifest_update import differing_cells
from coriolis.agent.replicate_sink import manifest_paths
from coriolis.agent.tasks.endpoint import open_endpoint, volumes_of
from coriolis.errors import NotFound
from coriolis.transfer.cells import CELL_BYTES, cell_length
from coriolis.transfer.manifest import decode_manifest


async def run(context: TaskContext) -> dict[str, Any]:
    """``verified``: per disk, bytes checked and differing. A machine that has run since differs, and should."""
    work = context.assignment
    paths = manifest_paths(context, work.migration_id)
    verified = []
    async with open_endpoint(context) as connection:
        target = volumes_of(connection, work.provider)
        for disk in work.spec().devices.disks:
            if not paths[disk.id].exists():
                raise NotFound(f"the manifest of disk {disk.id} is not on this agent")
            _, table = decode_manifest(await asyncio.to_thread(paths[disk.id].read_bytes))
            async with target.open_writer(work.volumes()[disk.id].id) as volume:
                cells = await differing_cells(table, volume)
            verified.append(
                {
                    "disk_id": disk.id,
                    "checked_bytes": table.size_bytes,
                    "differing_bytes": sum(cell_length(cell, table.size_bytes) for cell in cells),
                    "first_difference": cells[0] * CELL_BYTES if cells else 0,
                    "message": "" if not cells else "if the machine has been started, changes are to be expected",
                }
            )
    return {"verified": verified}
