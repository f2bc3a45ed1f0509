"""SHUTDOWN_INSTANCE: stop the origin machine for the last pass. Only cutover does this (invariant I3)."""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint
from coriolis.errors import Conflict
from coriolis.model.resource import POWER_KIND

DEFAULT_GRACE_S = 120.0


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; raises Conflict when the guest does not stop and may not be powered off."""
    work = context.assignment
    instance_id = work.spec().id
    async with open_endpoint(context) as connection:
        power = connection.power
        if power is None or await power.power_state(instance_id) == "stopped":
            context.event("the machine is not running")
            return {}
        # in the ledger first: whoever cleans up after a failure knows that the stop was ours
        await context.record(POWER_KIND, instance_id, "origin", "INTENDED")
        grace = float(work.environment.get("shutdown_grace_s", DEFAULT_GRACE_S))
        if not await power.shut_down(instance_id, grace):
            if not work.environment.get("allow_power_off", True):
                raise Conflict(f"the guest did not stop within {grace:.0f} s and power-off is not allowed")
            context.event(f"the guest did not stop within {grace:.0f} s: powering it off", "WARNING")
            await power.power_off(instance_id)
        await context.record(POWER_KIND, instance_id, "origin", "MADE")
    context.event("the origin machine is stopped")
    return {}
