"""The janitor: what clean-up left is removed later, on the sides that need it, without touching ended tasks."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from coriolis.coordinator.events import AssignPart, Event, PartCompleted, PartFailed, PartStarted, ResourceRecorded
from coriolis.coordinator.janitor import Janitor, removal_run
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.store import MemoryStore
from coriolis.model.job import InstanceRun, LedgerEntry, Migration, ResourceState, run_status
from coriolis.model.task import Part, Role, Side, Task, TaskStatus, TaskType
from tests.unit.coordinator.test_scheduler import NOW, migration
from tests.unit.coordinator.world import ScriptedAgents, driving

KIND_OF = {
    TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT: "instance",
    TaskType.DELETE_TRANSFER_DISKS: "volume",
    TaskType.DELETE_TRANSFER_SOURCE_RESOURCES: "snapshot",
    TaskType.RESTORE_ORIGIN_POWER: "power",
}
SIDE_OF = {"instance": "destination", "volume": "destination", "snapshot": "origin", "power": "origin"}


def ended(*kinds: str) -> tuple[Migration, InstanceRun]:
    """A failed run that left one resource of each kind."""
    wish = migration()
    [run] = plan_migration(wish)
    tasks = tuple(
        msgspec.structs.replace(
            task,
            status=TaskStatus.ERROR if task.task_type is TaskType.REPLICATE_DISKS else TaskStatus.UNSCHEDULED,
            parts=(Part(Role.SINK, "agent-b"), Part(Role.SOURCE, "agent-a")) if task.side is Side.BOTH else (),
        )
        for task in run.tasks
    )
    ledger = tuple(LedgerEntry(kind, f"{kind}-1", SIDE_OF[kind], ResourceState.MADE) for kind in kinds)
    return wish, msgspec.structs.replace(run, tasks=tasks, ledger=ledger)


class Healing:
    """Clean-up tasks fail until ``healed``."""

    def __init__(self) -> None:
        self.healed = False
        self.migration_ids: set[str] = set()

    def __call__(self, wish: Migration, run: InstanceRun, task: Task, command: AssignPart) -> list[Event]:
        self.migration_ids.add(wish.id)
        began: list[Event] = [PartStarted(task.id, command.generation, command.role, 1)]
        if not self.healed:
            return [*began, PartFailed(task.id, command.generation, command.role, "denied", "read-only", False)]
        kind = KIND_OF[task.task_type]
        gone = [
            ResourceRecorded(task.id, command.generation, msgspec.structs.replace(entry, state=ResourceState.DELETED))
            for entry in run.ledger
            if entry.kind == kind
        ]
        return [*began, *gone, PartCompleted(task.id, command.generation, command.role, {})]


ALL = tuple(SIDE_OF)
SUBSETS = [kinds for size in range(1, 5) for kinds in itertools.combinations(ALL, size)]


@pytest.mark.parametrize("kinds", SUBSETS)
async def test_residue_is_removed_once_the_cloud_answers_again(kinds: tuple[str, ...]) -> None:
    wish, run = ended(*kinds)
    store, script = MemoryStore(), Healing()
    await store.create(wish, [run], None)
    agents = ScriptedAgents(script)
    async with driving(store, agents) as driver:
        janitor = Janitor(driver, try_s=5)
        await janitor.sweep()
        assert len(driver.runs(wish.id)[0].residue()) == len(kinds)
        script.healed = True
        await janitor.sweep()
        after = driver.runs(wish.id)[0]
        assert after.residue() == []
        assert after.tasks == run.tasks, "an ended run's tasks never change (I6)"
        assert run_status(after) is run_status(run)
        assert script.migration_ids == {wish.id}, "agents must work under the migration's own names and tags"
        assert len(driver.all_runs()) == 1, "nothing of a try stays in memory"
        agents.assigned.clear()
        await janitor.sweep()
        assert agents.assigned == []
    [stored] = (await store.load()).runs
    assert stored.run.residue() == []


def test_only_the_needed_sides_are_asked_and_by_the_agents_that_worked_there() -> None:
    _, run = ended("volume")
    attempt = removal_run(run, "11111111-2222-4333-8444-555555555555", NOW)
    assert [(task.task_type, task.side) for task in attempt.tasks] == [
        (TaskType.DELETE_TRANSFER_DISKS, Side.DESTINATION)
    ]
    assert attempt.tasks[0].parts[0].agent_id == "agent-b"
    assert attempt.ledger == run.ledger


def test_the_origin_runs_again_only_after_the_destination_is_known_to_be_clean() -> None:
    _, run = ended("power")
    attempt = removal_run(run, "11111111-2222-4333-8444-555555555555", NOW)
    clean, power = attempt.tasks
    assert clean.task_type is TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT
    assert power.depends_on == (clean.id,)


async def test_the_origin_stays_off_while_the_destination_cannot_be_cleaned() -> None:
    wish, run = ended("power", "instance")
    store, script = MemoryStore(), Healing()
    await store.create(wish, [run], None)
    agents = ScriptedAgents(script)
    async with driving(store, agents) as driver:
        await Janitor(driver, try_s=5).sweep()
    assert [task for _, task in agents.assigned] == [TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT]


async def test_a_try_that_hangs_is_given_up_and_a_deposed_leader_writes_nothing() -> None:
    wish, run = ended("volume")
    store = MemoryStore()
    await store.create(wish, [run], None)
    agents = ScriptedAgents(lambda *_: [])
    async with driving(store, agents) as driver:
        await Janitor(driver, try_s=0.05).sweep()
        assert len(driver.all_runs()) == 1
    script = Healing()
    script.healed = True
    async with driving(store, ScriptedAgents(script)) as driver:
        store.leading_epoch += 1
        await Janitor(driver, try_s=5).sweep()
        assert driver.lost.is_set()
    [stored] = (await store.load()).runs
    assert len(stored.run.residue()) == 1
