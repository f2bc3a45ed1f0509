"""The scheduler under every order of events: it ends, cleans up, never moves along an edge that is not drawn."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.coordinator.events import (
    AgentLost,
    AssignPart,
    Begin,
    CancelRequested,
    Command,
    Event,
    FindAgents,
    InstanceCommitted,
    PartCompleted,
    PartFailed,
    PartStarted,
    Placed,
    ResidueRemoved,
    ResourceRecorded,
    RunEnded,
    SinkListening,
    WithdrawPart,
)
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.scheduler import MAX_RESULT_BYTES, step
from coriolis.errors import Conflict, CoriolisError, StaleGeneration
from coriolis.model.job import (
    DeploymentOptions,
    Endpoint,
    ExecutionStatus,
    InstanceRun,
    LedgerEntry,
    Migration,
    ResourceState,
    Transfer,
    run_status,
)
from coriolis.model.task import EDGES, FINAL, Role, Side, Task, TaskStatus, TaskType

NOW = "2026-01-02T03:04:05.000000"


def migration(passes: int = 2, *, morph: bool = True, shut_down: bool = True, instances: int = 1) -> Migration:
    endpoint = Endpoint("image", {}, {})
    return Migration(
        id="11111111-1111-4111-8111-111111111111",
        project_id="p",
        user_id="u",
        execution_id="22222222-2222-4222-8222-222222222222",
        transfer=Transfer(endpoint, endpoint, tuple(f"vm{i}" for i in range(instances))),
        deployment=DeploymentOptions(skip_os_morphing=not morph, shutdown_instances=shut_down),
        replication_count=passes,
        created_at=NOW,
    )


class World:
    """Agents that do what they are told, except when ``chance`` says otherwise."""

    def __init__(self, run: InstanceRun, seed: int, *, failure: float = 0.0, cancel_at: int = -1) -> None:
        self.run = run
        self.rng = random.Random(seed)
        self.failure = failure
        self.cancel_at = cancel_at
        self.todo: list[Event] = [Begin()]
        self.ended = 0
        self.started_instances: set[str] = set()
        self.history: dict[str, list[TaskStatus]] = {task.id: [task.status] for task in run.tasks}
        self.steps = 0

    def play(self) -> None:
        while self.todo:
            self.steps += 1
            assert self.steps < 5000, "the run does not end"
            if self.steps == self.cancel_at:
                self.apply(CancelRequested())
            self.apply(self.todo.pop(self.rng.randrange(len(self.todo))))

    def apply(self, event: Event) -> None:
        before = self.run
        self.run, commands = step(self.run, event, NOW)
        for old, new in zip(before.tasks, self.run.tasks, strict=True):
            if old.status is not new.status:
                self.history[new.id].append(new.status)
            assert new.generation >= old.generation
        for command in commands:
            self.obey(command)

    def obey(self, command: Command) -> None:
        match command:
            case FindAgents(task_id):
                task = self.run.task(task_id)
                roles = (Role.SINK, Role.SOURCE) if task.side is Side.BOTH else (Role.SINGLE,)
                self.todo.append(Placed(task_id, {role: f"agent-{role or 'x'}" for role in roles}))
            case AssignPart():
                self.work(command)
            case WithdrawPart(task_id, role, _, generation, _):
                self.todo.append(PartFailed(task_id, generation, role, "cancelled", "withdrawn", False))
            case RunEnded():
                self.ended += 1

    def work(self, command: AssignPart) -> None:
        task, generation, role = self.run.task(command.task_id), command.generation, command.role
        self.todo.append(PartStarted(task.id, generation, role, 4711))
        if self.rng.random() < self.failure:
            retryable = self.rng.random() < 0.7
            self.todo.append(PartFailed(task.id, generation, role, "unavailable", "no", retryable))
            return
        if self.rng.random() < self.failure / 4:
            self.todo.append(AgentLost(command.agent_id))
            return
        if role is Role.SINK:
            self.todo.append(SinkListening(task.id, generation, "127.0.0.1:1"))
        if task.task_type is TaskType.FINALIZE_INSTANCE_DEPLOYMENT:
            self.commit(task, generation)
        self.todo.append(PartCompleted(task.id, generation, role, {task.task_type.lower(): True}))

    def commit(self, task: Task, generation: int) -> None:
        try:
            self.apply(InstanceCommitted(task.id, generation, "the-instance"))
        except CoriolisError:
            return
        self.started_instances.add(self.run.committed_instance)


def reachable(old: TaskStatus, new: TaskStatus) -> bool:
    """One event may move a task twice: from dormant over SCHEDULED to where it belongs."""
    return new in EDGES[old] or (TaskStatus.SCHEDULED in EDGES[old] and new in EDGES[TaskStatus.SCHEDULED])


def only_run(**options: object) -> InstanceRun:
    return plan_migration(migration(**options))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("passes", [1, 2, 5])
@pytest.mark.parametrize("morph", [True, False])
@pytest.mark.parametrize("shut_down", [True, False])
def test_an_undisturbed_run_completes(passes: int, morph: bool, shut_down: bool) -> None:
    world = World(only_run(passes=passes, morph=morph, shut_down=shut_down), 1)
    world.play()
    assert run_status(world.run) is ExecutionStatus.COMPLETED
    assert world.ended == 1
    replications = [t for t in world.run.tasks if t.task_type is TaskType.REPLICATE_DISKS]
    assert [t.pass_number for t in replications] == list(range(1, passes + 1))
    assert not world.run.residue()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.3, 0.8]), st.integers(-1, 80), st.integers(1, 3), st.booleans()
)
def test_every_run_ends_cleaned_up_along_drawn_edges(
    seed: int, failure: float, cancel_at: int, passes: int, shut_down: bool
) -> None:
    world = World(only_run(passes=passes, shut_down=shut_down), seed, failure=failure, cancel_at=cancel_at)
    world.play()
    run = world.run
    assert run.terminal
    assert world.ended == 1
    assert len(world.started_instances) <= 1
    for moves in world.history.values():
        for old, new in itertools.pairwise(moves):
            assert reachable(old, new)
    by_type = {task.task_type: task for task in run.tasks}
    source = by_type[TaskType.DEPLOY_TRANSFER_SOURCE_RESOURCES]
    if source.status is TaskStatus.COMPLETED:
        assert by_type[TaskType.DELETE_TRANSFER_SOURCE_RESOURCES].status in (TaskStatus.COMPLETED, TaskStatus.ERROR)
    if run_status(run) is not ExecutionStatus.COMPLETED:
        validated = by_type[TaskType.VALIDATE_TRANSFER_DESTINATION_INPUTS].status is TaskStatus.COMPLETED
        removal = by_type[TaskType.DELETE_TRANSFER_DISKS].status
        assert removal in ((TaskStatus.COMPLETED, TaskStatus.ERROR) if validated else FINAL)
    restore = by_type.get(TaskType.RESTORE_ORIGIN_POWER)
    if restore is not None and restore.status is TaskStatus.COMPLETED and world.started_instances:
        assert by_type[TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT].status is TaskStatus.COMPLETED


@given(st.integers(0, 2**32))
def test_a_terminal_run_never_changes_again(seed: int) -> None:
    world = World(only_run(), seed, failure=0.3)
    world.play()
    for event in (Begin(), CancelRequested(), AgentLost("agent-x"), AgentLost("agent-sink")):
        after, commands = step(world.run, event, NOW)
        assert after is world.run
        assert commands == []


def assigned(task_type: TaskType) -> tuple[World, Task]:
    world = World(only_run(), 1)
    while True:
        for task in world.run.tasks:
            if task.task_type is task_type and task.status is TaskStatus.RUNNING:
                return world, task
        world.apply(world.todo.pop(0))


def test_events_of_a_replaced_generation_change_nothing() -> None:
    world, task = assigned(TaskType.DEPLOY_TRANSFER_DISKS)
    after, _ = step(world.run, AgentLost("agent-x"), NOW)
    after, _ = step(after, Placed(task.id, {Role.SINGLE: "agent-y"}), NOW)
    late = PartCompleted(task.id, task.generation, Role.SINGLE, {"volumes": {}})
    assert step(after, late, NOW)[0] is after
    entry = LedgerEntry("volume", "v", "destination", ResourceState.MADE)
    with pytest.raises(StaleGeneration):
        step(after, ResourceRecorded(task.id, task.generation, entry), NOW)


def test_a_replaced_agent_cannot_commit_an_instance() -> None:
    world, task = assigned(TaskType.FINALIZE_INSTANCE_DEPLOYMENT)
    run = InstanceRun(**{f: getattr(world.run, f) for f in world.run.__struct_fields__} | {"committed_instance": ""})
    after, _ = step(run, AgentLost("agent-x"), NOW)
    after, _ = step(after, Placed(task.id, {Role.SINGLE: "agent-y"}), NOW)
    with pytest.raises(StaleGeneration):
        step(after, InstanceCommitted(task.id, task.generation, "second"), NOW)


def test_cancel_after_the_commit_is_too_late() -> None:
    world, task = assigned(TaskType.FINALIZE_INSTANCE_DEPLOYMENT)
    after, _ = step(world.run, InstanceCommitted(task.id, task.generation, "the-instance"), NOW)
    again, commands = step(after, CancelRequested(), NOW)
    assert again is after
    assert commands == []


def test_neighbours_fail_alone() -> None:
    runs = plan_migration(migration(instances=2))
    good, bad = World(runs[0], 1), World(runs[1], 1, failure=1.0)
    good.play()
    bad.play()
    assert run_status(good.run) is ExecutionStatus.COMPLETED
    assert run_status(bad.run) is ExecutionStatus.ERROR


def test_generations_of_a_disk_rise_over_passes_too() -> None:
    world = World(only_run(passes=3), 1)
    world.play()
    generations = [task.generation for task in world.run.tasks if task.task_type is TaskType.REPLICATE_DISKS]
    assert generations == [1, 2, 3]


def failing_cleanup(task_type: TaskType) -> World:
    """A run in which nothing fails but every attempt of one clean-up task."""
    world = World(only_run(), 1)

    def work(command: AssignPart) -> None:
        task = world.run.task(command.task_id)
        if task.task_type is task_type:
            world.todo.append(PartFailed(task.id, command.generation, command.role, "denied", "no access", False))
            return
        if task.task_type is TaskType.FINALIZE_INSTANCE_DEPLOYMENT:
            for kind, side in (("snapshot", "origin"), ("instance", "destination"), ("power", "origin")):
                entry = LedgerEntry(kind, kind, side, ResourceState.MADE)
                world.apply(ResourceRecorded(task.id, command.generation, entry))
        World.work(world, command)

    world.work = work  # type: ignore[method-assign]
    world.play()
    return world


def test_a_clean_up_that_fails_at_the_origin_never_undoes_a_started_machine() -> None:
    run = failing_cleanup(TaskType.DELETE_TRANSFER_SOURCE_RESOURCES).run
    by_type = {task.task_type: task.status for task in run.tasks}
    assert by_type[TaskType.DELETE_TRANSFER_SOURCE_RESOURCES] is TaskStatus.ERROR
    assert by_type[TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT] is TaskStatus.EXECUTE_ON_ERROR_ONLY
    assert by_type[TaskType.DELETE_TRANSFER_DISKS] is TaskStatus.EXECUTE_ON_ERROR_ONLY
    assert run_status(run) is ExecutionStatus.COMPLETED
    # the machine and the stopped origin are the result; only the snapshot is left over
    assert [entry.kind for entry in run.residue()] == ["snapshot"]


def test_what_the_janitor_found_gone_changes_the_ledger_of_an_ended_run_and_nothing_else() -> None:
    run = failing_cleanup(TaskType.DELETE_TRANSFER_SOURCE_RESOURCES).run
    [left] = run.residue()
    after, commands = step(run, ResidueRemoved(left), NOW)
    assert commands == []
    assert after.tasks == run.tasks
    assert after.residue() == []
    assert step(after, ResidueRemoved(left), NOW)[0] is after
    machine = next(entry for entry in run.ledger if entry.kind == "instance")
    assert step(run, ResidueRemoved(machine), NOW)[0] is run, "a result is no residue"


def test_a_running_run_has_no_residue_to_remove() -> None:
    world, task = assigned(TaskType.DEPLOY_TRANSFER_DISKS)
    entry = LedgerEntry("volume", "v", "destination", ResourceState.MADE)
    run, _ = step(world.run, ResourceRecorded(task.id, task.generation, entry), NOW)
    assert step(run, ResidueRemoved(entry), NOW)[0] is run


def test_another_instance_is_not_committed_after_the_first() -> None:
    world, task = assigned(TaskType.FINALIZE_INSTANCE_DEPLOYMENT)
    after, _ = step(world.run, InstanceCommitted(task.id, task.generation, "the-instance"), NOW)
    assert step(after, InstanceCommitted(task.id, task.generation, "the-instance"), NOW)[0].committed_instance
    with pytest.raises(Conflict):
        step(after, InstanceCommitted(task.id, task.generation, "another"), NOW)


def test_a_result_that_would_fill_the_record_fails_the_task() -> None:
    world, task = assigned(TaskType.GET_INSTANCE_INFO)
    huge = PartCompleted(task.id, task.generation, Role.SINGLE, {"export_info": "x" * MAX_RESULT_BYTES})
    after, _ = step(world.run, huge, NOW)
    assert after.task(task.id).status is TaskStatus.ERROR
    assert str(MAX_RESULT_BYTES) in after.task(task.id).exception_details
    assert "export_info" not in after.results
