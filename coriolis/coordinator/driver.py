"""Feeds events to the scheduler, stores what comes of it, carries out the commands. One driver per leadership term."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog

from coriolis.clock import Clock, wire_time
from coriolis.coordinator.events import (
    AgentLost,
    AssignPart,
    Begin,
    CancelRequested,
    Command,
    Event,
    FindAgents,
    PartFailed,
    Placed,
    PlacementFailed,
    PlacementWaits,
    RunEnded,
    WithdrawPart,
)
from coriolis.coordinator.placement import NotPlaced
from coriolis.coordinator.scheduler import step
from coriolis.coordinator.store import JobStore, StoredRun
from coriolis.errors import CoriolisError, CredentialsLost, NotFound, StaleEpoch, Unavailable
from coriolis.model.job import InstanceRun, Migration, combined_status, run_status
from coriolis.model.task import ASSIGNED, Task, TaskStatus

log = structlog.get_logger(__name__)

AGENT_WAIT_S = 600.0
"""How long a task waits for an agent that fits before it fails."""
CREDENTIALS_WAIT_S = 14 * 24 * 3600.0
"""How long a task waits for new credentials; clean-ups wait as for an agent, and the janitor goes on."""
SAVE_RETRY_S = 1.0

RunKey = tuple[str, int]
"""(migration id, instance index)."""


class Dispatcher(Protocol):
    """The way to the agents."""

    async def place(self, migration: Migration, run: InstanceRun, task: Task) -> Placed | NotPlaced:
        """Agents for the task now, or why there are none."""
        ...

    async def agents_changed(self, timeout_s: float) -> None:
        """Return when an agent came or went, or after the timeout."""
        ...

    def assign(self, migration: Migration, run: InstanceRun, command: AssignPart) -> bool:
        """Send an assignment; False when the agent has no session."""
        ...

    def withdraw(self, command: WithdrawPart) -> None: ...


OnChange = Callable[[Migration, InstanceRun, InstanceRun], None]
"""(migration, run before, run after), called for each change once it is stored."""


class _Live:
    def __init__(self, stored: StoredRun, migration: Migration, on_change: OnChange, *, ephemeral: bool) -> None:
        self.run = stored.run
        self.revision = stored.revision
        self.migration = migration
        self.on_change = on_change
        self.ephemeral = ephemeral
        self.lock = asyncio.Lock()


class Driver:
    """All jobs of one leader. ``lost`` is set when the store says that another one leads."""

    def __init__(
        self,
        store: JobStore,
        dispatcher: Dispatcher,
        clock: Clock,
        on_change: OnChange,
    ) -> None:
        self.lost = asyncio.Event()
        self.migrations: dict[str, Migration] = {}
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._on_change = on_change
        self._live: dict[RunKey, _Live] = {}
        self._keys: dict[str, list[RunKey]] = {}
        self._task_index: dict[str, RunKey] = {}
        self._group: asyncio.TaskGroup | None = None

    def now(self) -> str:
        moment: datetime = self._clock.now()
        return wire_time(moment)

    async def serve(self, ready: asyncio.Event) -> None:
        """Load all jobs, go on with them, and run until cancelled or deposed."""
        loaded = await self._store.load()
        for migration in loaded.migrations:
            self.migrations[migration.id] = migration
        for stored in loaded.runs:
            self._adopt(_Live(stored, self.migrations[stored.run.migration_id], self._on_change, ephemeral=False))
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready.set()
            for key in list(self._live):
                self._spawn_feed(key, Begin())
            await self.lost.wait()
            raise StaleEpoch("another coordinator leads")

    def _adopt(self, live: _Live) -> None:
        key = (live.run.migration_id, live.run.index)
        self._live[key] = live
        self._keys.setdefault(key[0], []).append(key)
        for task in live.run.tasks:
            self._task_index[task.id] = key

    def _spawn_feed(self, key: RunKey, event: Event) -> None:
        assert self._group is not None
        self._group.create_task(self._feed_quietly(key, event))

    async def _feed_quietly(self, key: RunKey, event: Event) -> None:
        try:
            await self.feed(key, event)
        except StaleEpoch:
            self.lost.set()
        except NotFound:
            return  # deleted meanwhile

    async def submit(self, migration: Migration, stored: list[StoredRun]) -> None:
        """Begin a migration that is already in the store; one that is known is left alone."""
        if migration.id in self.migrations:
            return
        self.migrations[migration.id] = migration
        for each in stored:
            self._adopt(_Live(each, migration, self._on_change, ephemeral=False))
            self._spawn_feed((migration.id, each.run.index), Begin())

    async def find_stored(self, migration_id: str) -> Migration | None:
        """A migration of this term; one whose creation was never answered is found in the store and begun."""
        if migration_id not in self.migrations:
            loaded = await self._store.load()
            for migration in loaded.migrations:
                if migration.id == migration_id:
                    await self.submit(
                        migration, [each for each in loaded.runs if each.run.migration_id == migration_id]
                    )
        return self.migrations.get(migration_id)

    def submit_ephemeral(
        self, migration: Migration, runs: list[InstanceRun], on_change: OnChange = lambda *_: None
    ) -> None:
        """Begin runs that live in memory only (verifications, removals of residue).

        They are known by their own ``migration_id``; their tasks work for ``migration`` and with its endpoints.
        """
        for run in runs:
            self._adopt(_Live(StoredRun(run, 0), migration, on_change, ephemeral=True))
            self._spawn_feed((run.migration_id, run.index), Begin())

    def forget(self, migration_id: str) -> None:
        """Drop a deleted migration from memory."""
        self.migrations.pop(migration_id, None)
        for key in self._keys.pop(migration_id, []):
            for task in self._live.pop(key).run.tasks:
                self._task_index.pop(task.id, None)

    def runs(self, migration_id: str) -> list[InstanceRun]:
        """The runs of a migration in the order of its instances."""
        return [self._live[key].run for key in sorted(self._keys.get(migration_id, ()))]

    def all_runs(self) -> list[InstanceRun]:
        return [live.run for live in self._live.values()]

    def status(self, migration_id: str) -> str:
        return combined_status([run_status(run) for run in self.runs(migration_id)])

    def key_of(self, task_id: str) -> RunKey:
        """Raises NotFound for a task of no job here."""
        try:
            return self._task_index[task_id]
        except KeyError as unknown:
            raise NotFound(f"task {task_id} belongs to no job") from unknown

    def run_of(self, task_id: str) -> InstanceRun:
        return self._live[self.key_of(task_id)].run

    def served_in_memory(self) -> list[Migration]:
        """For what the runs that live in memory only still work."""
        return [live.migration for live in self._live.values() if live.ephemeral and not live.run.terminal]

    def migration_of(self, task_id: str) -> Migration:
        """The migration a task works for."""
        return self._live[self.key_of(task_id)].migration

    def stored_runs(self) -> list[InstanceRun]:
        """All runs but the ephemeral ones."""
        return [live.run for live in self._live.values() if not live.ephemeral]

    async def feed(self, key: RunKey, event: Event) -> InstanceRun:
        """Apply one event durably, then act. Events of one run are applied one after the other."""
        live = self._live.get(key)
        if live is None:
            raise NotFound("the migration was deleted")
        async with live.lock:
            before = live.run
            after, commands = step(before, event, self.now())
            if after is not before:
                live.revision = await self._save(live, after)
                live.run = after
                live.on_change(live.migration, before, after)
        for command in commands:
            self._carry_out(key, command)
        return after

    async def _save(self, live: _Live, run: InstanceRun) -> int:
        if live.ephemeral:
            return live.revision + 1
        while True:
            try:
                return await self._store.save_run(run, live.revision)
            except StaleEpoch:
                self.lost.set()
                raise
            except Unavailable as down:
                # the leader steps down by its own clock if this lasts; until then the job only waits
                log.warning("store unavailable, retrying", reason=down.message)
                await asyncio.sleep(SAVE_RETRY_S)

    def _carry_out(self, key: RunKey, command: Command) -> None:
        live = self._live.get(key)
        if live is None:
            return  # forgotten meanwhile
        migration, run = live.migration, live.run
        match command:
            case FindAgents():
                assert self._group is not None
                self._group.create_task(self._place(key, command))
            case AssignPart():
                if not self._dispatcher.assign(migration, run, command):
                    message = f"agent {command.agent_id} is not connected"
                    self._spawn_feed(
                        key,
                        PartFailed(
                            command.task_id, command.generation, command.role, "unavailable", message, True, True
                        ),
                    )
            case WithdrawPart():
                self._dispatcher.withdraw(command)
            case RunEnded():
                log.info("run ended", migration=key[0], instance=run.instance, status=run_status(run))

    async def _place(self, key: RunKey, command: FindAgents) -> None:
        await asyncio.sleep(command.delay_s)
        began = self._clock.monotonic()
        deadline = began + AGENT_WAIT_S
        while (live := self._live.get(key)) is not None:
            task = live.run.task(command.task_id)
            if task.status is not TaskStatus.PENDING:
                return
            try:
                answer = await self._dispatcher.place(live.migration, live.run, task)
            except CredentialsLost as lost:
                if not task.on_error:
                    deadline = max(deadline, began + CREDENTIALS_WAIT_S)
                answer = NotPlaced(lost.message, tell=True, code=lost.code)
            except CoriolisError as refused:  # Keystone or Barbican is away, or asked too often: that passes
                if not refused.retryable:
                    await self._feed_quietly(key, PlacementFailed(task.id, refused.message))
                    return
                answer = NotPlaced(refused.message, tell=True)
            if isinstance(answer, Placed):
                await self._feed_quietly(key, answer)
                return
            left = deadline - self._clock.monotonic()
            if left <= 0:
                message = f"{answer.reason} (waited {deadline - began:.0f} s)"
                await self._feed_quietly(key, PlacementFailed(task.id, message))
                return
            if answer.tell or live.run.task(command.task_id).error_code:
                await self._feed_quietly(key, PlacementWaits(task.id, answer.reason, answer.code))
            await self._dispatcher.agents_changed(min(left, 5.0))

    async def replace(self, migration: Migration) -> None:
        """Store a migration with another trust; its tasks go on with that one."""
        await self._store.replace(migration)
        self.migrations[migration.id] = migration
        for key in self._keys.get(migration.id, ()):
            self._live[key].migration = migration

    async def cancel(self, migration_id: str) -> None:
        for run in self.runs(migration_id):
            await self.feed((migration_id, run.index), CancelRequested())

    async def agent_lost(self, agent_id: str) -> None:
        """Take back everything the agent was assigned."""
        for run in self.all_runs():
            if any(
                task.status in ASSIGNED and any(p.agent_id == agent_id and not p.done for p in task.parts)
                for task in run.tasks
            ):
                await self.feed((run.migration_id, run.index), AgentLost(agent_id))

    def assigned_agents(self) -> set[str]:
        """Agents that hold a part of any active task."""
        return {
            part.agent_id
            for run in self.all_runs()
            for task in run.tasks
            if task.status in ASSIGNED
            for part in task.parts
            if not part.done
        }

    async def delete(self, migration_id: str) -> None:
        """Remove an ended migration from store and memory."""
        await self._store.delete(self.migrations[migration_id])
        self.forget(migration_id)
