"""What can happen to a run, and what shall be done about it: the words between driver and scheduler."""

from __future__ import annotations

from typing import Any

import msgspec

from coriolis.model.job import LedgerEntry
from coriolis.model.task import Road, Role, TaskEvent


class Begin(msgspec.Struct, frozen=True):
    """The run was accepted, or a new leader took it over: look what can be done."""


class Placed(msgspec.Struct, frozen=True):
    """Agents were found for a pending task; ``agents`` maps each role to an agent id.

    ``road`` for a task of two agents, ``note`` says it to people.
    """

    task_id: str
    agents: dict[Role, str]
    road: Road | None = None
    note: str = ""


class PlacementWaits(msgspec.Struct, frozen=True):
    """Agents are there, but something that an operator can change keeps the task from them.

    ``code``: of the error that keeps it, when it is credentials that were lost; else empty.
    """

    task_id: str
    message: str
    code: str = ""


class PlacementFailed(msgspec.Struct, frozen=True):
    """No agent turned up in time."""

    task_id: str
    message: str


class PartStarted(msgspec.Struct, frozen=True):
    task_id: str
    generation: int
    role: Role
    process_id: int


class SinkListening(msgspec.Struct, frozen=True):
    task_id: str
    generation: int
    address: str


class PartCompleted(msgspec.Struct, frozen=True):
    task_id: str
    generation: int
    role: Role
    result: dict[str, Any]
    events: tuple[TaskEvent, ...] = ()


class PartFailed(msgspec.Struct, frozen=True):
    """``progressed``: the attempt moved something durable forward, so it does not count against the limit."""

    task_id: str
    generation: int
    role: Role
    code: str
    message: str
    retryable: bool
    progressed: bool = False
    events: tuple[TaskEvent, ...] = ()


class AgentLost(msgspec.Struct, frozen=True):
    """The agent's lease ended and it has no session, or it came back without its assignments."""

    agent_id: str


class CancelRequested(msgspec.Struct, frozen=True):
    pass


class EventsReported(msgspec.Struct, frozen=True):
    task_id: str
    generation: int
    events: tuple[TaskEvent, ...]


class ResourceRecorded(msgspec.Struct, frozen=True):
    task_id: str
    generation: int
    entry: LedgerEntry


class ResidueRemoved(msgspec.Struct, frozen=True):
    """What an ended run had left behind is gone. ``entry`` as the run's ledger has it."""

    entry: LedgerEntry


class InstanceCommitted(msgspec.Struct, frozen=True):
    task_id: str
    generation: int
    instance_id: str


Event = (
    Begin
    | Placed
    | PlacementWaits
    | PlacementFailed
    | PartStarted
    | SinkListening
    | PartCompleted
    | PartFailed
    | AgentLost
    | CancelRequested
    | EventsReported
    | ResourceRecorded
    | ResidueRemoved
    | InstanceCommitted
)


class FindAgents(msgspec.Struct, frozen=True):
    """Find agents for a pending task, not before ``delay_s`` from now."""

    task_id: str
    delay_s: float = 0.0


class AssignPart(msgspec.Struct, frozen=True):
    task_id: str
    role: Role
    agent_id: str
    generation: int


class WithdrawPart(msgspec.Struct, frozen=True):
    task_id: str
    role: Role
    agent_id: str
    generation: int
    reason: str


class RunEnded(msgspec.Struct, frozen=True):
    """The run has become terminal."""


Command = FindAgents | AssignPart | WithdrawPart | RunEnded
