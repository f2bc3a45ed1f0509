"""How this agent converts and inspects guests: what its operator gave it, and what the job's endpoint opens."""

from __future__ import annotations

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import passphrases
from coriolis.convert.request import ConversionSettings


async def conversion_settings(context: TaskContext) -> ConversionSettings:
    """Raises Unavailable when what the agent's configuration names cannot be used."""
    place = context.workplace
    return ConversionSettings(
        state_dir=place.state_dir, bundle_dir=place.package_bundle, passphrases=await passphrases(context)
    )
