"""Removes what ended runs left behind: clean-up tasks that gave up are tried again until the ledger says DELETED.

A run's own tasks never change again once it has ended (invariant I6). Each try is an ephemeral run with clean-up tasks
of its own, which works under the names and tags of the migration; what it finds gone is entered, under the fence, into
the ledger of the run that had made it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog

from coriolis.coordinator.driver import Driver, RunKey
from coriolis.coordinator.events import ResidueRemoved
from coriolis.coordinator.placement import last_agent
from coriolis.errors import NotFound, StaleEpoch
from coriolis.ids import derived_id, new_id
from coriolis.model.job import InstanceRun, LedgerEntry, Migration, ResourceState
from coriolis.model.resource import POWER_KIND, ResourceKind
from coriolis.model.task import Part, Role, Side, Task, TaskStatus, TaskType

log = structlog.get_logger(__name__)

SWEEP_S = 20.0
"""How often leftovers are looked for; with one try's back-off it keeps the promise of 120 s after heal (F5)."""
SETTLE_S = 15.0
"""A run is left alone for so long after its end: what a dead agent asked a busy cloud for may come late."""
TRY_S = 50.0
"""A try that takes longer is dropped for the next sweep's; what its agent still removes shows then."""
MAX_AT_ONCE = 8

EntryKey = tuple[str, str, str]


def removal_run(run: InstanceRun, removal_id: str, now: str) -> InstanceRun:
    """The ephemeral run that removes the residue of ``run``: only the sides and kinds that are needed."""
    kinds = {entry.kind for entry in run.residue()}
    tasks: list[Task] = []

    def add(task_type: TaskType, side: Side, after: tuple[str, ...] = ()) -> str:
        before = last_agent(run, side)
        task = Task(
            id=derived_id(removal_id, str(run.index), task_type),
            task_type=task_type,
            index=len(tasks) + 1,
            side=side,
            depends_on=after,
            # naming the agent that worked here makes placement prefer it: its journals go with the volumes
            parts=(Part(Role.SINGLE, before, done=True),) if before else (),
            created_at=now,
        )
        tasks.append(task)
        return task.id

    undone: tuple[str, ...] = ()
    if kinds & {ResourceKind.INSTANCE, POWER_KIND}:
        # a machine at the destination goes before its volumes, and before the origin's may run again
        undone = (add(TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT, Side.DESTINATION),)
    if ResourceKind.VOLUME in kinds:
        add(TaskType.DELETE_TRANSFER_DISKS, Side.DESTINATION, undone)
    if ResourceKind.SNAPSHOT in kinds:
        add(TaskType.DELETE_TRANSFER_SOURCE_RESOURCES, Side.ORIGIN)
    if POWER_KIND in kinds:
        add(TaskType.RESTORE_ORIGIN_POWER, Side.ORIGIN, undone)
    return InstanceRun(
        removal_id,
        run.project_id,
        run.instance,
        run.index,
        tuple(tasks),
        results=run.results,
        ledger=run.ledger,
        committed_instance=run.committed_instance,
    )


def removed(residue: Iterable[LedgerEntry], tried: InstanceRun) -> list[LedgerEntry]:
    """The entries of ``residue`` that ``tried`` found gone."""
    gone = {_key(entry) for entry in tried.ledger if entry.state is ResourceState.DELETED}
    return [entry for entry in residue if _key(entry) in gone]


def just_ended(run: InstanceRun, now: str) -> bool:
    """Whether a run changed within ``SETTLE_S`` before ``now``; not when that is in the future, by another's clock."""
    if not run.updated_at:
        return False
    age = datetime.fromisoformat(now) - datetime.fromisoformat(run.updated_at)
    return timedelta() <= age < timedelta(seconds=SETTLE_S)


def _key(entry: LedgerEntry) -> EntryKey:
    return entry.kind, entry.name, entry.side


class Janitor:
    """One per leadership term."""

    def __init__(self, driver: Driver, *, sweep_s: float = SWEEP_S, try_s: float = TRY_S) -> None:
        self._driver = driver
        self._sweep_s = sweep_s
        self._try_s = try_s

    async def serve(self) -> None:
        """Sweep at once and then regularly, until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(self._sweep_s)

    async def sweep(self) -> None:
        """Try once to remove the residue of every ended run."""
        room = asyncio.Semaphore(MAX_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for run in self._driver.stored_runs():
                if run.residue() and not just_ended(run, self._driver.now()):
                    group.create_task(self._try(run, room))

    async def _try(self, run: InstanceRun, room: asyncio.Semaphore) -> None:
        async with room:
            migration = self._driver.migrations.get(run.migration_id)
            if migration is None:
                return  # deleted meanwhile
            try:
                await self._remove(migration, run)
            except NotFound:
                return
            except StaleEpoch:
                self._driver.lost.set()

    async def _remove(self, migration: Migration, run: InstanceRun) -> None:
        removal_id = new_id()
        changed = asyncio.Event()
        attempt = removal_run(run, removal_id, self._driver.now())
        if not attempt.tasks:
            kinds = sorted({entry.kind for entry in run.residue()})
            log.error("residue of a kind that nothing removes", migration=migration.id, kinds=kinds)
            return
        self._driver.submit_ephemeral(migration, [attempt], lambda *_: changed.set())
        try:
            async with asyncio.timeout(self._try_s):
                while not attempt.terminal:
                    await changed.wait()
                    changed.clear()
                    attempt = self._driver.runs(removal_id)[0]
                    await self._enter(run, attempt)
        except TimeoutError:
            log.warning("removing residue takes long", migration=migration.id, instance=run.instance)
        finally:
            self._driver.forget(removal_id)
        reasons = [task.exception_details for task in attempt.tasks if task.status is TaskStatus.ERROR]
        if reasons:
            log.warning("residue not removed yet", migration=migration.id, instance=run.instance, reasons=reasons)

    async def _enter(self, run: InstanceRun, attempt: InstanceRun) -> None:
        key: RunKey = (run.migration_id, run.index)
        for entry in removed(run.residue(), attempt):
            await self._driver.feed(key, ResidueRemoved(entry))
