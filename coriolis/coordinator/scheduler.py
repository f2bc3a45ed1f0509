"""(run, event) -> (run, commands): the whole life of a machine's tasks as one pure function.

The driver stores the returned run in a fenced transaction before it carries out any command, so a command may be lost
(a new leader finds the run and looks again) but never refers to a state that was not stored.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from coriolis.coordinator.events import (
    AgentLost,
    AssignPart,
    Begin,
    CancelRequested,
    Command,
    Event,
    EventsReported,
    FindAgents,
    InstanceCommitted,
    PartCompleted,
    PartFailed,
    PartStarted,
    Placed,
    PlacementFailed,
    PlacementWaits,
    ResidueRemoved,
    ResourceRecorded,
    RunEnded,
    SinkListening,
    WithdrawPart,
)
from coriolis.errors import Conflict, StaleGeneration, TaskDied
from coriolis.model.job import CREDENTIALS_LOST, InstanceRun, LedgerEntry, ResourceState
from coriolis.model.resource import POWER_KIND
from coriolis.model.task import (
    ASSIGNED,
    EDGES,
    FINAL,
    MAX_EVENTS_PER_TASK,
    Part,
    Role,
    Side,
    Task,
    TaskEvent,
    TaskStatus,
    TaskType,
)

MAX_ATTEMPTS = 8
"""Attempts in a row without progress before a retryable failure becomes final."""
MAX_LOOK_ATTEMPTS = 4
"""For tasks that only look: nothing is made yet, so the caller shall soon hear why nothing begins."""
MAX_CLEANUP_ATTEMPTS = 5
"""Then the run ends with its residue listed (within 10 s of trying), and the janitor goes on."""
MAX_BACKOFF_S = 30.0
CREDENTIALS_LOOK_S = 5.0
"""How soon after credentials were lost it is looked whether there are others."""
MAX_RESULT_BYTES = 128 << 10
"""A run is one record of at most 1.5 MB in etcd; what an origin says of a machine must not fill it."""
LOOKS = frozenset(
    {
        TaskType.VALIDATE_TRANSFER_SOURCE_INPUTS,
        TaskType.GET_INSTANCE_INFO,
        TaskType.VALIDATE_TRANSFER_DESTINATION_INPUTS,
    }
)

Step = tuple[InstanceRun, list[Command]]


def step(run: InstanceRun, event: Event, now: str) -> Step:
    """Apply ``event`` at wire time ``now``.

    Events of a replaced generation are ignored, except records and commits: those raise StaleGeneration, because the
    agent must not act. A commit after another one raises Conflict.
    """
    if run.terminal and not isinstance(event, ResourceRecorded | ResidueRemoved):
        return run, []
    was_terminal = run.terminal
    run, commands = _apply(run, event, now)
    run, more = _advance(run, now)
    commands += more
    if run.terminal and not was_terminal:
        commands.append(RunEnded())
    return run, commands


def _apply(run: InstanceRun, event: Event, now: str) -> Step:
    match event:
        case Begin():
            pending = [task for task in run.tasks if task.status is TaskStatus.PENDING]
            return run, [FindAgents(task.id) for task in pending]
        case AgentLost(agent_id):
            return _agent_lost(run, agent_id, now)
        case CancelRequested():
            return _cancel(run, now)
        case Placed():
            return _placed(run, event, now)
        case ResidueRemoved(entry):
            return _residue_removed(run, entry, now), []
        case PlacementWaits(task_id, message, code):
            return _placement_waits(run, run.task(task_id), message, code, now), []
        case PlacementFailed(task_id, message):
            task = run.task(task_id)
            if task.status is not TaskStatus.PENDING:
                return run, []
            return _put(run, _finish(task, TaskStatus.ERROR, now, "unavailable", message), now), []
        case ResourceRecorded() | InstanceCommitted():
            return _record(run, event, now)
        case PartStarted() | SinkListening() | PartCompleted() | PartFailed() | EventsReported():
            task = run.task(event.task_id)
            if task.status not in ASSIGNED or event.generation != task.generation:
                return run, []
            return _progress(run, task, event, now)


def _progress(
    run: InstanceRun,
    task: Task,
    event: PartStarted | SinkListening | PartCompleted | PartFailed | EventsReported,
    now: str,
) -> Step:
    match event:
        case PartStarted(role=role, process_id=process_id):
            task = _update_part(task, role, process_id=process_id)
            if task.status is TaskStatus.STARTING:
                task = _move(task, TaskStatus.RUNNING, now)
            return _put(run, task, now), []
        case SinkListening(address=address):
            sink, source = task.part(Role.SINK), task.part(Role.SOURCE)
            if sink is None or source is None or sink.address or task.status is TaskStatus.CANCELLING:
                return run, []
            task = _update_part(task, Role.SINK, address=address)
            return _put(run, task, now), [AssignPart(task.id, Role.SOURCE, source.agent_id, task.generation)]
        case EventsReported(events=events):
            return _put(run, _with_events(task, events), now), []
        case PartCompleted():
            return _completed(run, task, event, now)
        case PartFailed():
            return _failed(run, task, event, now)


def _completed(run: InstanceRun, task: Task, event: PartCompleted, now: str) -> Step:
    size = len(msgspec.json.encode(event.result))
    if size > MAX_RESULT_BYTES:
        message = f"the result of {task.task_type} has {size} bytes, at most {MAX_RESULT_BYTES} can be kept"
        return _failed(
            run, task, PartFailed(task.id, task.generation, event.role, "quota_exceeded", message, False), now
        )
    task = _with_events(_update_part(task, event.role, done=True), event.events)
    run = msgspec.structs.replace(run, results={**run.results, **event.result})
    if all(part.done for part in task.parts):
        task = _move(msgspec.structs.replace(task, attempts=0), TaskStatus.COMPLETED, now)
    return _put(run, task, now), []


def _failed(run: InstanceRun, task: Task, event: PartFailed, now: str) -> Step:
    died = task.died or event.code == TaskDied.code
    task = msgspec.structs.replace(_with_events(task, event.events), died=died)
    others: list[Command] = [
        WithdrawPart(task.id, part.role, part.agent_id, task.generation, event.message)
        for part in task.parts
        if part.role is not event.role and not part.done
    ]
    if task.status is TaskStatus.CANCELLING:
        return _put(run, _finish(task, TaskStatus.CANCELED, now, event.code, "cancelled"), now), others
    if event.code == CREDENTIALS_LOST and not task.on_error:
        # no fault of the attempt: it counts against nothing, and the driver waits for credentials that work
        task = _with_events(task, (_event(task, "WARNING", f"waits for new credentials: {event.message}", now),))
        task = _move(msgspec.structs.replace(task, parts=(), error_code=event.code), TaskStatus.PENDING, now)
        return _put(run, task, now), [*others, FindAgents(task.id, CREDENTIALS_LOOK_S)]
    attempts = 1 if event.progressed else task.attempts + 1
    limit = _max_attempts(task)
    retry = (event.retryable or task.on_error) and attempts < limit
    if not retry:
        task = msgspec.structs.replace(task, attempts=attempts)
        return _put(run, _finish(task, TaskStatus.ERROR, now, event.code, event.message), now), others
    delay = 0.0 if event.progressed else min(MAX_BACKOFF_S, 0.5 * 2 ** (attempts - 1))
    task = _with_events(task, (_event(task, "WARNING", f"attempt ended, trying again: {event.message}", now),))
    task = _move(msgspec.structs.replace(task, attempts=attempts, parts=()), TaskStatus.PENDING, now)
    return _put(run, task, now), [*others, FindAgents(task.id, delay)]


def _max_attempts(task: Task) -> int:
    if task.on_error:
        return MAX_CLEANUP_ATTEMPTS
    return MAX_LOOK_ATTEMPTS if task.task_type in LOOKS else MAX_ATTEMPTS


def _placed(run: InstanceRun, event: Placed, now: str) -> Step:
    task = run.task(event.task_id)
    if task.status is not TaskStatus.PENDING:
        return run, []
    roles = roles_of(task)
    parts = tuple(Part(role, event.agents[role]) for role in roles)
    task = msgspec.structs.replace(
        task, parts=parts, generation=_next_generation(run, task), road=event.road, error_code=""
    )
    task = _move(task, TaskStatus.STARTING, now)
    if event.note:
        task = _with_events(task, (_event(task, "INFO", event.note, now),))
    first = parts[0]
    return _put(run, task, now), [AssignPart(task.id, first.role, first.agent_id, task.generation)]


def _placement_waits(run: InstanceRun, task: Task, message: str, code: str, now: str) -> InstanceRun:
    """Said once: it is asked again every few seconds."""
    said = bool(task.events) and task.events[-1].message == message[:1024]
    if task.status is not TaskStatus.PENDING or (said and task.error_code == code):
        return run
    if not said:
        task = _with_events(task, (_event(task, "WARNING", message, now),))
    return _put(run, msgspec.structs.replace(task, error_code=code), now)


def _next_generation(run: InstanceRun, task: Task) -> int:
    """Above every one before. Passes share a count: a sink journals the generation per disk, not per pass."""
    if task.side is not Side.BOTH:
        return task.generation + 1
    return 1 + max(other.generation for other in run.tasks if other.side is Side.BOTH)


def roles_of(task: Task) -> tuple[Role, ...]:
    """The parts a task has, in the order of their assignment: a sink must listen before its source dials."""
    return (Role.SINK, Role.SOURCE) if task.side is Side.BOTH else (Role.SINGLE,)


def _agent_lost(run: InstanceRun, agent_id: str, now: str) -> Step:
    commands: list[Command] = []
    for task in run.tasks:
        lost = [part for part in task.parts if part.agent_id == agent_id and not part.done]
        if task.status not in ASSIGNED or not lost:
            continue
        run, more = _failed(
            run,
            task,
            PartFailed(task.id, task.generation, lost[0].role, "task_died", f"agent {agent_id} is gone", True, True),
            now,
        )
        commands += more
    return run, commands


def _cancel(run: InstanceRun, now: str) -> Step:
    if run.committed_instance or run.cancel_requested:
        return run, []  # after the commit the new machine may run: it is too late to undo
    run = msgspec.structs.replace(run, cancel_requested=True, updated_at=now)
    commands: list[Command] = []
    for task in run.tasks:
        if task.on_error:
            continue
        if task.status in (TaskStatus.SCHEDULED, TaskStatus.PENDING):
            run = _put(run, _move(task, TaskStatus.UNSCHEDULED, now), now)
        elif task.status in (TaskStatus.STARTING, TaskStatus.RUNNING):
            commands += [
                WithdrawPart(task.id, part.role, part.agent_id, task.generation, "cancelled by the caller")
                for part in task.parts
                if not part.done
            ]
            run = _put(run, _move(task, TaskStatus.CANCELLING, now), now)
    return run, commands


def _record(run: InstanceRun, event: ResourceRecorded | InstanceCommitted, now: str) -> Step:
    task = run.task(event.task_id)
    if task.generation != event.generation or task.status not in ASSIGNED:
        raise StaleGeneration(f"task {task.task_type} was assigned anew or has ended")
    if isinstance(event, ResourceRecorded):
        if task.on_error and _in_doubt(run, event.entry):
            return run, []
        return msgspec.structs.replace(run, ledger=_entered(run.ledger, event.entry), updated_at=now), []
    if task.status is TaskStatus.CANCELLING or run.cancel_requested:
        raise Conflict("the migration is being cancelled")
    if run.committed_instance not in ("", event.instance_id):
        raise Conflict(f"instance {run.committed_instance} is already the result of this migration")
    return msgspec.structs.replace(run, committed_instance=event.instance_id, updated_at=now), []


def _in_doubt(run: InstanceRun, gone: LedgerEntry) -> bool:
    """Whether what a clean-up found gone may yet come to be, because who asked a cloud for it died meanwhile. It stays
    in the ledger as residue, for which the janitor looks again after a while."""
    if gone.state is not ResourceState.DELETED or gone.kind == POWER_KIND:
        return False
    if gone.side == Side.ORIGIN and not any(
        old.name == gone.name and old.kind == gone.kind and old.state is ResourceState.INTENDED for old in run.ledger
    ):
        return False  # a snapshot that was made; a completed run removes it too
    return any(task.died for task in run.tasks if not task.on_error and task.task_type not in LOOKS)


def _residue_removed(run: InstanceRun, entry: LedgerEntry, now: str) -> InstanceRun:
    """Only the ledger of an ended run changes, never its tasks (invariant I6)."""
    if entry not in run.residue():
        return run
    gone = msgspec.structs.replace(entry, state=ResourceState.DELETED)
    return msgspec.structs.replace(run, ledger=_entered(run.ledger, gone), updated_at=now)


def _entered(ledger: tuple[LedgerEntry, ...], entry: LedgerEntry) -> tuple[LedgerEntry, ...]:
    kept = tuple(old for old in ledger if (old.kind, old.name, old.side) != (entry.kind, entry.name, entry.side))
    return (*kept, entry)


def _advance(run: InstanceRun, now: str) -> Step:
    """Start every task whose time has come; repeat until nothing moves."""
    commands: list[Command] = []
    moved = True
    while moved:
        moved = False
        for task in run.tasks:
            target = _next_status(run, task)
            if target is None:
                continue
            run = _put(run, _move(task, target, now), now)
            moved = True
            if target is TaskStatus.PENDING:
                commands.append(FindAgents(task.id))
    return run, commands


def _next_status(run: InstanceRun, task: Task) -> TaskStatus | None:
    if task.status is TaskStatus.EXECUTE_ON_ERROR_ONLY:
        return TaskStatus.SCHEDULED if run.failed else None
    if task.status is not TaskStatus.SCHEDULED:
        return None
    parents = [run.task(parent) for parent in task.depends_on]
    if not task.on_error:
        if all(parent.status is TaskStatus.COMPLETED for parent in parents):
            return TaskStatus.UNSCHEDULED if run.failed else TaskStatus.PENDING
        ended = any(parent.status in FINAL and parent.status is not TaskStatus.COMPLETED for parent in parents)
        return TaskStatus.UNSCHEDULED if ended else None
    if any(parent.status not in FINAL for parent in parents):
        return None
    if task.task_type is TaskType.RESTORE_ORIGIN_POWER and not _origin_may_run(run, parents):
        return TaskStatus.UNSCHEDULED
    set_up = any(parent.status is TaskStatus.COMPLETED and not parent.on_error for parent in parents)
    return TaskStatus.PENDING if set_up else TaskStatus.UNSCHEDULED


def _origin_may_run(run: InstanceRun, parents: Iterable[Task]) -> bool:
    """Only when no machine of this run can be running at the destination."""
    undone = all(
        parent.status in (TaskStatus.COMPLETED, TaskStatus.UNSCHEDULED) for parent in parents if parent.on_error
    )
    final_untouched = all(
        parent.status is TaskStatus.UNSCHEDULED
        for parent in parents
        if parent.task_type is TaskType.FINALIZE_INSTANCE_DEPLOYMENT
    )
    cleaned = any(parent.status is TaskStatus.COMPLETED for parent in parents if parent.on_error)
    return undone and (final_untouched or cleaned)


def _move(task: Task, status: TaskStatus, now: str) -> Task:
    assert status in EDGES[task.status], f"{task.task_type}: {task.status} -> {status} is not a drawn edge"
    return msgspec.structs.replace(task, status=status, updated_at=now)


def _finish(task: Task, status: TaskStatus, now: str, code: str, message: str) -> Task:
    if status is TaskStatus.ERROR:
        task = _with_events(task, (_event(task, "ERROR", message, now),))
    return msgspec.structs.replace(_move(task, status, now), error_code=code, exception_details=message)


def _event(task: Task, level: str, message: str, now: str) -> TaskEvent:
    return TaskEvent(f"{task.id[:24]}{len(task.events):04d}{task.generation:08d}", level, message[:1024], now)


def _with_events(task: Task, events: tuple[TaskEvent, ...]) -> Task:
    known = {event.id for event in task.events}
    fresh = tuple(event for event in events if event.id not in known)
    if not fresh:
        return task
    return msgspec.structs.replace(task, events=(*task.events, *fresh)[-MAX_EVENTS_PER_TASK:])


def _update_part(task: Task, role: Role, *, process_id: int = 0, address: str = "", done: bool = False) -> Task:
    parts = tuple(
        msgspec.structs.replace(
            part,
            process_id=process_id or part.process_id,
            address=address or part.address,
            done=done or part.done,
        )
        if part.role is role
        else part
        for part in task.parts
    )
    return msgspec.structs.replace(task, parts=parts)


def _put(run: InstanceRun, task: Task, now: str) -> InstanceRun:
    tasks = tuple(task if old.id == task.id else old for old in run.tasks)
    return msgspec.structs.replace(run, tasks=tasks, updated_at=now)
