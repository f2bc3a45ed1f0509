"""Follows the agents' registrations in etcd, and notices agents that are gone."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import structlog
from google.protobuf.message import DecodeError

from coriolis.coordinator import keys
from coriolis.coordinator.directory import AgentDirectory
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.sessions import Sessions
from coriolis.errors import ChangeLogLost, Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.records import KeyValue
from coriolis.etcd.watch import watch
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2

log = structlog.get_logger(__name__)

CHECK_S = 1.0
RETRY_S = 1.0


async def follow_agents(client: EtcdClient, directory: AgentDirectory) -> None:
    """Keep ``directory`` as etcd has it, until cancelled."""
    while True:
        try:
            listing = await client.list(keys.AGENTS)
            for key, item in listing.items.items():
                _take(directory, key, item)
            directory.loaded = True
            changes = watch(client, keys.AGENTS, prefix=True, start_revision=listing.revision + 1)
            async with aclosing(changes) as batches:
                async for batch in batches:
                    for event in batch.events:
                        _take(directory, event.key, event.item)
        except (Unavailable, ChangeLogLost) as interrupted:
            log.warning("agents not watched", reason=interrupted.message)
            await asyncio.sleep(RETRY_S)


def _take(directory: AgentDirectory, key: str, item: KeyValue | None) -> None:
    alive = keys.parse_agent_live(key)
    if alive is not None:
        directory.set_live(alive, item is not None)
    announced = keys.parse_agent_announcement(key)
    if announced is None:
        return
    if item is None:
        directory.drop_spec(announced)
        return
    try:
        agent = cluster_pb2.Agent.FromString(item.value)
    except DecodeError:
        log.warning("announcement of an agent is unreadable", agent=announced)
        return
    if agent.id == announced:
        directory.put_spec(agent)


async def check_lost_agents(driver: Driver, sessions: Sessions, directory: AgentDirectory) -> None:
    """Take back the work of agents that have neither a session nor a live lease."""
    while True:
        await asyncio.sleep(CHECK_S)
        sessions.drop_silent()
        connected = sessions.connected()
        for agent_id in driver.assigned_agents():
            if agent_id not in connected and not directory.is_live(agent_id):
                log.warning("agent lost", agent=agent_id)
                await driver.agent_lost(agent_id)
