"""Tasks of a job: types, states, and the record that the scheduler moves along."""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class TaskType(enum.StrEnum):
    """Names as the REST API publishes them; RESTORE_ORIGIN_POWER, PROVE_BOOT, VERIFY_DISKS, INSPECT_GUEST and
    SURVEY_ENDPOINT are ours."""

    VALIDATE_TRANSFER_SOURCE_INPUTS = "VALIDATE_TRANSFER_SOURCE_INPUTS"
    GET_INSTANCE_INFO = "GET_INSTANCE_INFO"
    VALIDATE_TRANSFER_DESTINATION_INPUTS = "VALIDATE_TRANSFER_DESTINATION_INPUTS"
    DEPLOY_TRANSFER_DISKS = "DEPLOY_TRANSFER_DISKS"
    DEPLOY_TRANSFER_SOURCE_RESOURCES = "DEPLOY_TRANSFER_SOURCE_RESOURCES"
    REPLICATE_DISKS = "REPLICATE_DISKS"
    SHUTDOWN_INSTANCE = "SHUTDOWN_INSTANCE"
    DELETE_TRANSFER_SOURCE_RESOURCES = "DELETE_TRANSFER_SOURCE_RESOURCES"
    OS_MORPHING = "OS_MORPHING"
    FINALIZE_INSTANCE_DEPLOYMENT = "FINALIZE_INSTANCE_DEPLOYMENT"
    CLEANUP_FAILED_INSTANCE_DEPLOYMENT = "CLEANUP_FAILED_INSTANCE_DEPLOYMENT"
    DELETE_TRANSFER_DISKS = "DELETE_TRANSFER_DISKS"
    RESTORE_ORIGIN_POWER = "RESTORE_ORIGIN_POWER"
    VERIFY_DISKS = "VERIFY_DISKS"
    PROVE_BOOT = "PROVE_BOOT"
    INSPECT_GUEST = "INSPECT_GUEST"
    SURVEY_ENDPOINT = "SURVEY_ENDPOINT"


class TaskStatus(enum.StrEnum):
    SCHEDULED = "SCHEDULED"
    EXECUTE_ON_ERROR_ONLY = "EXECUTE_ON_ERROR_ONLY"
    PENDING = "PENDING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    ERROR = "ERROR"
    UNSCHEDULED = "UNSCHEDULED"
    CANCELED = "CANCELED"


ACTIVE = frozenset({TaskStatus.PENDING, TaskStatus.STARTING, TaskStatus.RUNNING, TaskStatus.CANCELLING})
FINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.ERROR, TaskStatus.UNSCHEDULED, TaskStatus.CANCELED})
ASSIGNED = frozenset({TaskStatus.STARTING, TaskStatus.RUNNING, TaskStatus.CANCELLING})

EDGES: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.SCHEDULED: frozenset({TaskStatus.PENDING, TaskStatus.UNSCHEDULED}),
    TaskStatus.EXECUTE_ON_ERROR_ONLY: frozenset({TaskStatus.SCHEDULED}),
    TaskStatus.PENDING: frozenset({TaskStatus.STARTING, TaskStatus.UNSCHEDULED, TaskStatus.ERROR}),
    TaskStatus.STARTING: frozenset(
        {TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.ERROR, TaskStatus.CANCELLING}
    ),
    TaskStatus.RUNNING: frozenset({TaskStatus.COMPLETED, TaskStatus.ERROR, TaskStatus.PENDING, TaskStatus.CANCELLING}),
    TaskStatus.CANCELLING: frozenset({TaskStatus.CANCELED, TaskStatus.COMPLETED}),
    **{status: frozenset[TaskStatus]() for status in FINAL},
}
"""The only moves a task may make (invariant I6)."""


class Side(enum.StrEnum):
    ORIGIN = "origin"
    DESTINATION = "destination"
    BOTH = "both"


class Role(enum.StrEnum):
    """Part of a task that one agent runs; SINGLE unless the task is bilateral."""

    SINGLE = ""
    SINK = "sink"
    SOURCE = "source"


class TaskEvent(msgspec.Struct, frozen=True):
    """``level`` is INFO, WARNING or ERROR; ``created_at`` in wire form."""

    id: str
    level: str
    message: str
    created_at: str


class Road(msgspec.Struct, frozen=True):
    """How the connections of a source reach its sink: ``dialled``, ``reverse`` or ``relay``.

    ``meeting``: the agent where both meet, and ``address`` its data port; both empty when dialled.
    """

    path: str
    meeting: str = ""
    address: str = ""


class Part(msgspec.Struct, frozen=True):
    """One agent's share of an assigned task."""

    role: Role
    agent_id: str
    process_id: int = 0
    address: str = ""
    done: bool = False


class Task(msgspec.Struct, frozen=True):
    """``depends_on`` holds task ids of the same instance. ``generation`` is raised at each assignment."""

    id: str
    task_type: TaskType
    index: int
    side: Side
    depends_on: tuple[str, ...] = ()
    on_error: bool = False
    status: TaskStatus = TaskStatus.SCHEDULED
    pass_number: int = 0
    last_pass: bool = False
    generation: int = 0
    attempts: int = 0
    """Attempts in a row that ended without progress."""
    died: bool = False
    """An attempt ended without a word: a cloud may still carry out what it asked for."""
    parts: tuple[Part, ...] = ()
    road: Road | None = None
    """Of the current attempt of a task of two agents."""
    error_code: str = ""
    exception_details: str = ""
    events: tuple[TaskEvent, ...] = ()
    created_at: str = ""
    updated_at: str = ""

    def part(self, role: Role) -> Part | None:
        return next((part for part in self.parts if part.role is role), None)


MAX_EVENTS_PER_TASK = 30

TaskResult = dict[str, Any]
