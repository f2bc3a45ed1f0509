"""CLEANUP_FAILED_INSTANCE_DEPLOYMENT: remove the machine that a failed deployment left at the destination."""

from __future__ import annotations

from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import instances_of, open_endpoint
from coriolis.model.resource import ResourceKind


async def run(context: TaskContext) -> dict[str, Any]:
    """Nothing; repeats harmlessly. Only machines tagged with this job and instance are touched."""
    work = context.assignment
    async with open_endpoint(context) as connection:
        target = instances_of(connection, work.provider)
        for found in await target.find_tagged(work.migration_id):
            if found.kind is ResourceKind.INSTANCE and found.tag.role.startswith(work.tag("").role):
                await target.delete_instance(found.id)
                context.event(f"machine {found.name} removed")
    for entry in work.input["ledger"]:
        if entry["kind"] == ResourceKind.INSTANCE and entry["state"] != "DELETED":
            await context.record(ResourceKind.INSTANCE, entry["name"], "destination", "DELETED")
    return {}
