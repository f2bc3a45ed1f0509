"""FINALIZE_INSTANCE_DEPLOYMENT: make the machine, stopped; have the coordinator commit it; only then start it."""

from __future__ import annotations

import asyncio
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import instances_of, open_endpoint
from coriolis.agent.tasks.machine_request import machine_request, volumes_in_order
from coriolis.model.machine import to_document
from coriolis.model.resource import ResourceKind


async def run(context: TaskContext) -> dict[str, Any]:
    """``transfer_result``: description of the new machine. Fence 4: at most one machine of a job is ever started."""
    work = context.assignment
    request = machine_request(work, volumes_in_order(work))
    async with open_endpoint(context) as connection:
        target = instances_of(connection, work.provider)
        await context.record(ResourceKind.INSTANCE, request.name, "destination", "INTENDED")
        instance = await target.create_instance(request)
        await context.record(ResourceKind.INSTANCE, request.name, "destination", "MADE", instance.id)
        await context.commit_instance(instance.id)
        if work.environment.get("start_instance", True):
            await target.start(instance.id)
            context.event(f"machine {instance.name} ({instance.id}) is started")
        else:
            context.event(f"machine {instance.name} ({instance.id}) is made and, as asked, not started")
    await asyncio.to_thread(context.workplace.discard, context.workplace.transfer_dir(work))
    return {"transfer_result": {**to_document(work.spec()), "id": instance.id, "name": instance.name}}
