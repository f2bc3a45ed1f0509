"""FINALIZE_INSTANCE_DEPLOYMENT: make the machine, stopped; have the coordinator commit it; only then start it."""

from __future__ import annotations

import asyncio
from typing import Any

from coriolis.agent.assignment import Assignment, TaskContext
from coriolis.agent.tasks.endpoint import instances_of, open_endpoint, volumes_of
from coriolis.agent.tasks.machine_request import machine_request, volumes_in_order
from coriolis.model.machine import to_document
from coriolis.model.resource import Instance, ResourceKind
from coriolis.providers.base import Connection


def is_to_start(work: Assignment) -> bool:
    """What the user asked for; unasked, a machine is started and a template is not."""
    return bool(work.environment.get("start_instance", not work.spec().is_template))


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
        if is_to_start(work):
            await target.start(instance.id)
            context.event(f"machine {instance.name} ({instance.id}) is started")
        else:
            why = "as asked" if "start_instance" in work.environment else "as a template"
            context.event(f"machine {instance.name} ({instance.id}) is made and, {why}, not started")
        await _remove_unneeded(context, connection, instance)
    await asyncio.to_thread(context.workplace.discard, context.workplace.transfer_dir(work))
    return {"transfer_result": {**to_document(work.spec()), "id": instance.id, "name": instance.name}}


async def _remove_unneeded(context: TaskContext, connection: Connection, instance: Instance) -> None:
    """The machine has their content elsewhere now; a repeat finds it, and needs no volume."""
    work = context.assignment
    target = volumes_of(connection, work.provider)
    for volume in volumes_in_order(work):
        if volume.id in instance.unneeded_volumes:
            await target.delete_volume(volume.id)
            await context.record(ResourceKind.VOLUME, volume.name, "destination", "DELETED")
