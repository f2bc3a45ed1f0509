"""How this agent converts and inspects guests: what its operator gave it, and what the job's endpoint opens."""

from __future__ import annotations

import asyncio

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import passphrases
from coriolis.convert.driver_pack import prepare_driver_pack
from coriolis.convert.request import ConversionSettings


async def conversion_settings(context: TaskContext) -> ConversionSettings:
    """Raises InvalidInput, Corrupt, Unavailable when what the agent's configuration names cannot be used."""
    place = context.workplace
    drivers = None
    if place.virtio_win is not None and context.assignment.spec().os_type != "linux":
        drivers = await asyncio.to_thread(prepare_driver_pack, place.virtio_win, place.state_dir)
    return ConversionSettings(
        state_dir=place.state_dir,
        bundle_dir=place.package_bundle,
        drivers_dir=drivers,
        passphrases=await passphrases(context),
    )
