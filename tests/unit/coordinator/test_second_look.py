"""What a dead process asked of a cloud may come late: a clean-up's word is not enough then, the janitor looks again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from coriolis.clock import wire_time
from coriolis.coordinator import trust_sweep
from coriolis.coordinator.events import (
    AssignPart,
    CancelRequested,
    PartCompleted,
    PartFailed,
    ResidueRemoved,
    ResourceRecorded,
)
from coriolis.coordinator.janitor import SETTLE_S, SWEEP_S, just_ended
from coriolis.coordinator.scheduler import step
from coriolis.model.job import ExecutionStatus, InstanceRun, LedgerEntry, ResourceState, run_status
from coriolis.model.task import TaskType
from tests.unit.coordinator.test_scheduler import NOW, World, assigned, only_run

VOLUME = LedgerEntry("volume", "v", "destination", ResourceState.INTENDED)


def removing(world: World, entry: LedgerEntry, *removers: TaskType) -> World:
    """Clean-up tasks of these types find ``entry`` gone."""
    usual = world.work

    def work(command: AssignPart) -> None:
        task = world.run.task(command.task_id)
        if task.task_type in removers:
            gone = msgspec.structs.replace(entry, state=ResourceState.DELETED)
            world.todo.append(ResourceRecorded(task.id, command.generation, gone))
            world.todo.append(PartCompleted(task.id, command.generation, command.role, {}))
            world.todo.sort(key=lambda event: isinstance(event, PartCompleted))
            return
        usual(command)

    world.work = work  # type: ignore[method-assign]
    world.rng.randrange = lambda *_: 0  # type: ignore[method-assign,assignment]  # events in their order
    return world


@pytest.mark.parametrize(("code", "left"), [("task_died", 1), ("unavailable", 0)])
@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_volume_whose_maker_died_is_looked_for_again(code: str, left: int, cancelled_first: bool) -> None:
    """Cancelled while it is made, or between two attempts."""
    world, task = assigned(TaskType.DEPLOY_TRANSFER_DISKS)
    removing(world, VOLUME, TaskType.DELETE_TRANSFER_DISKS)
    world.apply(ResourceRecorded(task.id, task.generation, VOLUME))
    events = [PartFailed(task.id, task.generation, task.parts[0].role, code, "gone", True), CancelRequested()]
    world.todo = []
    for event in reversed(events) if cancelled_first else events:
        world.apply(event)
    world.play()
    run = world.run
    assert run_status(run) is ExecutionStatus.CANCELED
    assert len(run.residue()) == left
    for entry in run.residue():
        run, _ = step(run, ResidueRemoved(entry), NOW)
    assert run.residue() == []


@pytest.mark.parametrize(("state", "left"), [(ResourceState.MADE, 0), (ResourceState.INTENDED, 1)])
def test_a_snapshot_that_was_made_is_gone_when_it_is_removed(state: ResourceState, left: int) -> None:
    """Of a run that completes although its source died once: only a snapshot of unknown fate is looked for again."""
    world, task = assigned(TaskType.REPLICATE_DISKS)
    snapshot = LedgerEntry("snapshot", "s", "origin", state)
    removing(world, snapshot, TaskType.DELETE_TRANSFER_SOURCE_RESOURCES)
    world.apply(ResourceRecorded(task.id, task.generation, snapshot))
    world.todo = []
    world.apply(PartFailed(task.id, task.generation, task.parts[0].role, "task_died", "gone", True, True))
    world.play()
    assert run_status(world.run) is ExecutionStatus.COMPLETED
    assert len(world.run.residue()) == left


@pytest.mark.parametrize(
    ("age", "fresh"), [(0, True), (SETTLE_S - 1, True), (SETTLE_S, False), (3600, False), (-1, False), (-3600, False)]
)
def test_what_just_ended_is_left_alone_for_a_while(age: float, fresh: bool) -> None:
    """Not by a clock that goes wrong: a run that ended in the future is looked at."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    run: InstanceRun = msgspec.structs.replace(only_run(), updated_at=wire_time(now - timedelta(seconds=age)))
    assert just_ended(run, wire_time(now)) is fresh
    assert not just_ended(msgspec.structs.replace(run, updated_at=""), wire_time(now))


def test_second_look_and_trust_are_over_after_two_minutes() -> None:
    """A removal takes seconds; the trust is needed for it, and goes some sweeps later."""
    removal_s = 10
    assert SETTLE_S + SWEEP_S + removal_s + trust_sweep.GRACE_S + 2 * trust_sweep.SWEEP_S < 120
