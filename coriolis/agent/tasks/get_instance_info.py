"""GET_INSTANCE_INFO: describe the machine at the origin."""

from __future__ import annotations

from typing import Any

import msgspec

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint
from coriolis.errors import InvalidInput
from coriolis.model.machine import to_document
from coriolis.model.network_mapping import needed
from coriolis.providers.registry import load_provider

MAX_DISKS = 60


async def run(context: TaskContext) -> dict[str, Any]:
    """``export_info``: the machine's description. Raises NotFound, Conflict for an ambiguous name."""
    async with open_endpoint(context) as connection:
        spec = await connection.inventory.get_instance(context.assignment.instance)
        if load_provider(context.assignment.provider).capabilities.describes_subnets:
            described = needed([spec], await connection.inventory.configuration())
            spec = msgspec.structs.replace(spec, configuration=described)
    disks = spec.devices.disks
    if not 1 <= len(disks) <= MAX_DISKS:
        raise InvalidInput(f"instance {spec.name} has {len(disks)} disks; 1 to {MAX_DISKS} can be migrated")
    total = sum(disk.size_bytes for disk in disks)
    context.event(f"{spec.name}: {spec.num_cpu} CPU, {spec.memory_mb} MiB, {len(disks)} disks, {total} bytes")
    return {"export_info": to_document(spec)}
