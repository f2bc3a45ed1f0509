"""VALIDATE_TRANSFER_SOURCE_INPUTS: can this machine be read as it stands?"""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint, snapshots_of
from coriolis.errors import Conflict
from coriolis.model.finding import Severity
from coriolis.providers.base import ExaminesInstances
from coriolis.providers.registry import load_provider


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; raises when the origin cannot be read: Denied, Unavailable, NotFound, Conflict."""
    work = context.assignment
    async with open_endpoint(context) as connection:
        snapshots_of(connection, work.provider)
        spec = await connection.inventory.get_instance(work.instance)
        if spec.power_state == "running" and not load_provider(work.provider).capabilities.live_source:
            raise Conflict(
                f"instance {spec.name} is running and {work.provider} reads stopped ones only; stop it first"
            )
        inventory = connection.inventory
        found = await inventory.examine(spec.id) if isinstance(inventory, ExaminesInstances) else []
    for finding in found:
        context.event(str(finding), finding.severity)
    stops = [str(finding) for finding in found if finding.severity is Severity.ERROR]
    if stops:
        raise Conflict(f"instance {spec.name} cannot be migrated as it stands: " + "; ".join(stops))
    return {}
