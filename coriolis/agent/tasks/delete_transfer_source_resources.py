"""DELETE_TRANSFER_SOURCE_RESOURCES: leave no snapshot and no change log of this job at the origin."""

from __future__ import annotations

import asyncio
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint, snapshots_of
from coriolis.model.resource import ResourceKind


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; repeats harmlessly. Goes by the ledger and by what the origin itself lists."""
    work = context.assignment
    recorded = [
        entry["name"]
        for entry in work.input["ledger"]
        if entry["kind"] == ResourceKind.SNAPSHOT and entry["state"] != "DELETED"
    ]
    async with open_endpoint(context) as connection:
        source = snapshots_of(connection, work.provider)
        instance_id = work.spec().id
        prefix = work.name("pass-")
        found = [name for name in await source.find_snapshots(instance_id) if name.startswith(prefix)]
        # newest first: an origin merges the log of a removed base into its child
        for name in sorted({*recorded, *found}, reverse=True):
            await source.delete_snapshot(instance_id, name)
            await source.delete_change_base(instance_id, name)
    for name in recorded:
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "DELETED")
    await asyncio.to_thread(context.workplace.discard, context.workplace.transfer_dir(work) / "source")
    return {}
