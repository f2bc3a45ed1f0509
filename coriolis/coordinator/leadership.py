"""Who leads: the record at the leader key, and the fence made from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from coriolis.coordinator.keys import LEADER
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.failures import Compacted
from coriolis.etcd.lease import Lease
from coriolis.etcd.records import KeyValue
from coriolis.etcd.txn import Compare, Get, Txn, created_at
from coriolis.etcd.watch import watch


@dataclass(frozen=True, slots=True)
class LeaderRecord:
    """The leader at one moment; ``epoch`` is the key's create revision and only ever grows."""

    id: str
    address: str
    epoch: int


class LeadershipTerm:
    """One unbroken time of leading. Check ``is_current`` before, and put ``fence`` into, every write."""

    def __init__(self, epoch: int, lease: Lease) -> None:
        self.epoch = epoch
        self.lost = asyncio.Event()
        self._lease = lease

    @property
    def lease(self) -> Lease:
        """The lease that the term stands on."""
        return self._lease

    def is_current(self) -> bool:
        """False at once after a pause of the process, and for good once lost. Never a substitute for the
        fence.
        """
        return not self.lost.is_set() and self._lease.is_held()

    @property
    def fence(self) -> Compare:
        """The condition under which etcd accepts this term's writes."""
        return fence(self.epoch)


def fence(epoch: int) -> Compare:
    """Holds as long as nobody else has led since ``epoch``."""
    return created_at(LEADER, epoch)


def encode_record(coordinator_id: str, address: str) -> bytes:
    """Value of the leader key."""
    return json.dumps({"id": coordinator_id, "address": address}, separators=(",", ":")).encode()


def decode_record(item: KeyValue | None) -> LeaderRecord | None:
    """None without a leader, and for a value that no coordinator wrote."""
    if item is None:
        return None
    try:
        document = json.loads(item.value)
        return LeaderRecord(str(document["id"]), str(document["address"]), item.create_revision)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


async def current_leader(client: EtcdClient) -> LeaderRecord | None:
    """The leader now."""
    return decode_record(await client.get(LEADER))


async def read_leader(client: EtcdClient) -> tuple[KeyValue | None, int]:
    """The leader key and the revision at which it was read. Touches no other key: an agent may read only
    this one.
    """
    result = await client.commit(Txn(then=(Get(LEADER),)), idempotent=True)
    return result.gets[0], result.revision


async def leader_changes(client: EtcdClient) -> AsyncGenerator[LeaderRecord | None]:
    """The leader now and at every change; raises Unavailable when etcd stays away. Close it when leaving
    early.
    """
    while True:
        found, revision = await read_leader(client)
        yield decode_record(found)
        try:
            async with aclosing(watch(client, LEADER, start_revision=revision + 1)) as batches:
                async for batch in batches:
                    yield decode_record(batch.events[-1].item)
        except Compacted:
            continue
