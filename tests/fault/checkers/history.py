"""I5, I6, I7 on etcd's history: every write of a run, by which leader, and where it moved the tasks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from coriolis.coordinator import keys
from coriolis.coordinator.store import RunRecord
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.watch import watch
from coriolis.model.job import InstanceRun, run_status
from coriolis.model.task import EDGES, TaskStatus


@dataclass
class Write:
    """One stored state of a run."""

    revision: int
    epoch: int
    run: InstanceRun


@dataclass
class History:
    """Follows ``jobs/`` and ``leader`` from now on; ``async with`` owns the watch."""

    endpoints: list[str]
    writes: dict[str, list[Write]] = field(default_factory=dict)
    leaders: list[tuple[int, int]] = field(default_factory=list)
    """(revision at which it was made, epoch) of each leader key."""

    async def __aenter__(self) -> History:
        self._client = EtcdClient(self.endpoints)
        listing = await self._client.list(keys.ROOT)
        leader = listing.items.get(keys.LEADER)
        if leader is not None:
            self.leaders.append((leader.mod_revision, leader.create_revision))
        self._follower = asyncio.create_task(self._follow(listing.revision + 1))
        return self

    async def _follow(self, revision: int) -> None:
        async with aclosing(
            watch(self._client, keys.ROOT, prefix=True, start_revision=revision, give_up_s=300)
        ) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.item is None:
                        continue
                    if event.key == keys.LEADER:
                        self.leaders.append((event.item.mod_revision, event.item.create_revision))
                    named = keys.parse_job(event.key)
                    if named is not None and named.instance_index is not None:
                        record = msgspec.json.decode(event.item.value, type=RunRecord)
                        self.writes.setdefault(event.key, []).append(
                            Write(event.item.mod_revision, record.epoch, record.run)
                        )

    async def __aexit__(self, *_: object) -> None:
        self._follower.cancel()
        await asyncio.wait([self._follower])
        await self._client.close()

    def check(self) -> None:
        """Raises AssertionError naming the invariant that broke."""
        for key, writes in self.writes.items():
            for write in writes:
                current = max((leader for leader in self.leaders if leader[0] <= write.revision), default=(0, 0))
                assert write.epoch == current[1], (
                    f"I7: {key} was written at {write.revision} by epoch {write.epoch} while {current[1]} led"
                )
            for before, after in pairwise(writes):
                _check_moves(key, before.run, after.run)
            terminal = [write for write in writes if write.run.terminal]
            statuses = {run_status(write.run) for write in terminal}
            assert len(statuses) <= 1, f"I5: {key} was terminal as {statuses}"


def _check_moves(key: str, before: InstanceRun, after: InstanceRun) -> None:
    for old, new in zip(before.tasks, after.tasks, strict=True):
        assert new.generation >= old.generation, f"I7: generation of {key} {new.task_type} fell"
        if old.status is new.status:
            continue
        assert old.status in EDGES, f"I6: {old.status}"
        direct = new.status in EDGES[old.status]
        # one stored step may wake a dormant task and place it at once
        over = TaskStatus.SCHEDULED in EDGES[old.status] and new.status in EDGES[TaskStatus.SCHEDULED]
        assert direct or over, f"I6: {key} {new.task_type} moved {old.status} -> {new.status}"
