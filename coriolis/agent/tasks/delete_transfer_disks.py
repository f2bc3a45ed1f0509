"""DELETE_TRANSFER_DISKS: after a failure, no volume of this machine stays at the destination."""

from __future__ import annotations

import asyncio
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint, volumes_of
from coriolis.model.resource import ResourceKind


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; repeats harmlessly. Finds volumes by the ledger and, where the answer of a create was lost, by tag."""
    work = context.assignment
    recorded = {
        entry["name"]: entry["cloud_id"]
        for entry in work.input["ledger"]
        if entry["kind"] == ResourceKind.VOLUME and entry["state"] != "DELETED"
    }
    async with open_endpoint(context) as connection:
        target = volumes_of(connection, work.provider)
        ids = {cloud_id for cloud_id in recorded.values() if cloud_id}
        if connection.instances is not None:
            mine = work.tag("").role
            ids |= {
                found.id
                for found in await connection.instances.find_tagged(work.migration_id)
                if found.kind is ResourceKind.VOLUME and found.tag.role.startswith(mine)
            }
        for volume_id in sorted(ids):
            await target.delete_volume(volume_id)
    for name in recorded:
        await context.record(ResourceKind.VOLUME, name, "destination", "DELETED")
    for folder in (
        context.workplace.transfer_dir(work),
        context.workplace.manifest_dir(work.migration_id, work.instance_index),
    ):
        await asyncio.to_thread(context.workplace.discard, folder)
    return {}
