"""VALIDATE_TRANSFER_DESTINATION_INPUTS: could the destination run this machine?"""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import instances_of, open_endpoint
from coriolis.agent.tasks.machine_request import machine_request


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; raises InvalidInput, QuotaExceeded, Conflict before a byte has moved."""
    work = context.assignment
    request = machine_request(work, ())
    if request.name != work.spec().name:
        context.event(f"{work.spec().name} will be called {request.name} at its destination")
    async with open_endpoint(context) as connection:
        await instances_of(connection, work.provider).validate(request)
    return {}
