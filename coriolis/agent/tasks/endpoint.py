"""Opening the endpoint a task works on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from coriolis.agent.assignment import TaskContext
from coriolis.errors import Unsupported
from coriolis.model.environment import of_provider
from coriolis.providers.base import Connection, InstanceTarget, SnapshotSource, VolumeTarget
from coriolis.providers.registry import load_provider
from coriolis.providers.surroundings import Surroundings

PASSPHRASE = "encrypted_disks_passphrase"
"""Member of connection_info that is ours, not the provider's."""
RENEW_TIMEOUT_S = 300.0
"""Longer than any election; what it waits for is the leader."""


async def passphrases(context: TaskContext) -> tuple[str, ...]:
    """What opens encrypted disks of the guest."""
    given = (await context.connection_info()).get(PASSPHRASE)
    return (given,) if given else ()


@asynccontextmanager
async def open_endpoint(context: TaskContext) -> AsyncIterator[Connection]:
    """A connection to the cloud of this side, with the credentials of the current assignment."""
    provider = load_provider(context.assignment.provider)
    info = await context.connection_info()
    info.pop(PASSPHRASE, None)
    place = context.workplace
    loop = asyncio.get_running_loop()

    def renew() -> dict[str, Any]:
        renewed = asyncio.run_coroutine_threadsafe(context.connection_info(), loop).result(RENEW_TIMEOUT_S)
        renewed.pop(PASSPHRASE, None)
        return renewed

    surroundings = Surroundings(
        environment=of_provider(context.assignment.environment),
        state_dir=place.state_dir,
        staging_dir=place.staging_dir or place.state_dir / "staging",
        vddk_dir=place.vddk_dir,
        cinder=place.cinder,
        tell=context.event,
        renew=renew,
    )
    async with provider.connect(info, surroundings) as connection:
        yield connection


def snapshots_of(connection: Connection, provider: str) -> SnapshotSource:
    """Raises Unsupported when the provider cannot be an origin."""
    if connection.snapshots is None:
        raise Unsupported(f"provider {provider} cannot read disks; it is no origin")
    return connection.snapshots


def volumes_of(connection: Connection, provider: str) -> VolumeTarget:
    """Raises Unsupported when the provider cannot be a destination."""
    if connection.volumes is None:
        raise Unsupported(f"provider {provider} cannot store disks; it is no destination")
    return connection.volumes


def instances_of(connection: Connection, provider: str) -> InstanceTarget:
    """Raises Unsupported when the provider cannot be a destination."""
    if connection.instances is None:
        raise Unsupported(f"provider {provider} cannot make machines; it is no destination")
    return connection.instances
