"""SURVEY_ENDPOINT: networks, security groups and storage of one end. Nothing is changed."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from coriolis.agent.assignment import TaskContext
from coriolis.agent.tasks.endpoint import open_endpoint
from coriolis.model.environment import COMMON_DESTINATION
from coriolis.model.network_mapping import Takes
from coriolis.model.survey import surveyed
from coriolis.providers.base import Provider
from coriolis.providers.registry import load_provider


async def run(context: TaskContext) -> dict[str, Any]:
    """``survey``: ``coriolis.model.survey.Surveyed``."""
    asked = context.assignment.results["survey_request"]
    async with open_endpoint(context) as connection:
        found = await connection.inventory.configuration()
    provider = load_provider(context.assignment.provider)
    detail: Literal["full", "names"] = "full" if provider.capabilities.describes_subnets else "names"
    takes = takes_of(provider) if asked["side"] == "destination" else None
    told = surveyed(found, detail, takes)
    context.event(
        f"{len(found.networks)} networks, {len(found.security_groups)} security groups, "
        f"{len(found.storage_types)} kinds of storage"
    )
    if told.left_out:
        context.event(f"{told.left_out} of them are left out: they are more than a survey holds", "WARNING")
    return {"survey": msgspec.to_builtins(told)}


def takes_of(provider: Provider) -> Takes:
    """What the provider understands as a destination."""
    declared = provider.capabilities
    members = {**COMMON_DESTINATION, **provider.destination_environment_schema.get("properties", {})}
    return Takes(
        members=tuple(sorted(members)),
        free_networks=declared.free_networks,
        storage_member=declared.storage_member,
        storage_required=declared.storage_required,
    )
