"""INSPECT_GUEST: say what is on an instance's disks and what conversion would do. Nothing is changed.

A snapshot is taken to read a machine that runs, and removed at once.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.conversion_settings import conversion_settings
from coriolis.agent.tasks.endpoint import open_endpoint, snapshots_of
from coriolis.convert.inspect import inspect
from coriolis.convert.request import ConversionOptions, request_for
from coriolis.model.resource import ResourceKind


async def run(context: TaskContext) -> dict[str, Any]:
    """``inspection``: system, steps and findings (``coriolis.convert.inspect.Inspection``)."""
    work = context.assignment
    spec = work.spec()
    asked = work.results["inspection_request"]
    options = msgspec.convert(asked["conversion"], ConversionOptions)
    name, folder = work.snapshot_name(1), context.workplace.transfer_dir(work) / "inspection"
    async with open_endpoint(context) as connection:
        source = snapshots_of(connection, work.provider)
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "INTENDED")
        snapshot = await source.create_snapshot(spec.id, name, None)
        await context.record(ResourceKind.SNAPSHOT, name, "origin", "MADE", name)
        async with AsyncExitStack() as stack:
            readers = [
                await stack.enter_async_context(source.open_reader(snapshot, disk.disk_id)) for disk in snapshot.disks
            ]
            request = request_for(spec, asked["target_platform"], snapshot.identity, options)
            found = await inspect(request, readers, folder, context.event, await conversion_settings(context))
    await asyncio.to_thread(context.workplace.discard, folder)
    # the clean-up task that follows removes the snapshot, also when this one fails or is killed
    return {"inspection": {**msgspec.to_builtins(found), "convertible": found.convertible}}
