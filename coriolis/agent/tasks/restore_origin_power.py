"""RESTORE_ORIGIN_POWER: after a failed or cancelled cutover, start the origin machine again if we stopped it."""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint
from coriolis.model.resource import POWER_KIND


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing. A machine that was stopped by somebody else stays stopped."""
    work = context.assignment
    ours = [entry for entry in work.input["ledger"] if entry["kind"] == POWER_KIND and entry["state"] != "DELETED"]
    if not ours:
        return {}
    async with open_endpoint(context) as connection:
        if connection.power is not None:
            for entry in ours:
                if await connection.power.power_state(entry["name"]) == "stopped":
                    await connection.power.start(entry["name"])
                    context.event("the origin machine runs again")
    for entry in ours:
        await context.record(POWER_KIND, entry["name"], "origin", "DELETED")
    return {}
