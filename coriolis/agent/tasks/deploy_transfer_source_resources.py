"""DEPLOY_TRANSFER_SOURCE_RESOURCES: nothing of an earlier attempt may stand in the way of the first snapshot.

Our agents need no helper machines at the origin; what is set up is the right to call the origin clean.
"""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint, snapshots_of


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; other jobs' snapshots on the machine are reported, never touched."""
    work = context.assignment
    async with open_endpoint(context) as connection:
        for name in await snapshots_of(connection, work.provider).find_snapshots(work.spec().id):
            if work.migration_id not in name:
                context.event(f"snapshot {name} of another job is on this machine", "WARNING")
    return {}
