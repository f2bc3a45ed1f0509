"""A driver on a memory store with agents that a test scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from coriolis.clock import SystemClock
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.events import AssignPart, Event, Placed, WithdrawPart
from coriolis.coordinator.scheduler import roles_of
from coriolis.coordinator.store import MemoryStore
from coriolis.model.job import InstanceRun, Migration
from coriolis.model.task import Task

Script = Callable[[Migration, InstanceRun, Task, AssignPart], list[Event]]
"""What the agent of an assignment reports back, in order."""


class ScriptedAgents:
    """Meets ``Dispatcher``; every task is placed at once."""

    def __init__(self, script: Script) -> None:
        self.driver: Driver | None = None
        self.assigned: list[tuple[str, str]] = []
        self._script = script
        self._working: set[asyncio.Task[None]] = set()

    async def place(self, migration: Migration, run: InstanceRun, task: Task) -> Placed:
        return Placed(task.id, dict.fromkeys(roles_of(task), f"agent-{task.side}"))

    async def agents_changed(self, timeout_s: float) -> None:
        await asyncio.sleep(0)

    def assign(self, migration: Migration, run: InstanceRun, command: AssignPart) -> bool:
        task = run.task(command.task_id)
        self.assigned.append((migration.id, task.task_type))
        working = asyncio.create_task(self._work(migration, run, task, command))
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        return True

    async def _work(self, migration: Migration, run: InstanceRun, task: Task, command: AssignPart) -> None:
        assert self.driver is not None
        for event in self._script(migration, run, task, command):
            await self.driver.feed((run.migration_id, run.index), event)

    def withdraw(self, command: WithdrawPart) -> None:
        return


@asynccontextmanager
async def driving(store: MemoryStore, agents: ScriptedAgents) -> AsyncIterator[Driver]:
    """A serving driver that has loaded ``store``."""
    driver = Driver(store, agents, SystemClock(), lambda *_: None)
    agents.driver = driver
    ready = asyncio.Event()
    serving = asyncio.create_task(driver.serve(ready))
    await ready.wait()
    try:
        yield driver
    finally:
        serving.cancel()
        await asyncio.wait([serving])
