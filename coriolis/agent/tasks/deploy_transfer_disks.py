"""DEPLOY_TRANSFER_DISKS: a volume at the destination for each disk."""

from __future__ import annotations

from typing import Any

import msgspec

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint, volumes_of
from coriolis.model.environment import of_provider
from coriolis.model.resource import ResourceKind, Volume, VolumeRequest
from coriolis.model.storage_choice import storage_of


async def run(context: TaskContext) -> dict[str, Any]:
    """``volumes``: {disk id: Volume}. What a failure leaves is in the ledger; DELETE_TRANSFER_DISKS removes it."""
    work = context.assignment
    made: dict[str, Volume] = {}
    async with open_endpoint(context) as connection:
        target = volumes_of(connection, work.provider)
        for number, disk in enumerate(work.spec().devices.disks):
            role = f"disk-{number}"
            name = work.name(role)
            await context.record(ResourceKind.VOLUME, name, "destination", "INTENDED")
            volume = await target.create_volume(
                VolumeRequest(
                    name=name,
                    size_bytes=disk.size_bytes,
                    tag=work.tag(role),
                    storage=storage_of(disk, work.environment),
                    environment=of_provider(work.environment),
                )
            )
            await context.record(ResourceKind.VOLUME, name, "destination", "MADE", volume.id)
            made[disk.id] = volume
    context.event(f"{len(made)} volumes, {sum(v.size_bytes for v in made.values())} bytes")
    return {"volumes": msgspec.to_builtins(made)}
