"""What an agent holds: assignments running or finished but not acknowledged. Pure; the supervisor carries it out."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from coriolis.agent.assignment import Assignment


class Phase(enum.StrEnum):
    WAITING = "WAITING"  # an older attempt of the same task must end first
    RUNNING = "RUNNING"
    ENDING = "ENDING"  # withdrawn; its process is being stopped
    FINISHED = "FINISHED"  # the outcome waits for the coordinator's acknowledgement


class Outcome(msgspec.Struct, frozen=True):
    """``error_code`` empty means success."""

    result: dict[str, Any] = {}
    error_code: str = ""
    error_message: str = ""


class Held(msgspec.Struct, frozen=True):
    assignment: Assignment
    phase: Phase
    outcome: Outcome | None = None


class StartProcess(msgspec.Struct, frozen=True):
    assignment: Assignment


class StopProcess(msgspec.Struct, frozen=True):
    assignment_id: str


class ReportOutcome(msgspec.Struct, frozen=True):
    assignment_id: str
    outcome: Outcome


Instruction = StartProcess | StopProcess | ReportOutcome
HeldMap = dict[str, Held]


def slot(assignment: Assignment) -> str:
    """Attempts of one part of one task share a slot: at most one process runs in it."""
    return f"{assignment.task_id}:{assignment.role}"


def on_assign(held: HeldMap, assignment: Assignment) -> tuple[HeldMap, list[Instruction]]:
    """Begin an assignment; a repetition changes nothing. Older attempts in its slot are stopped first."""
    if assignment.assignment_id in held:
        return held, []
    older = [
        each for each in held.values() if slot(each.assignment) == slot(assignment) and each.phase is not Phase.FINISHED
    ]
    kept = {
        key: each
        for key, each in held.items()
        if not (slot(each.assignment) == slot(assignment) and each.phase is Phase.WAITING)
    }
    if not older:
        return {**kept, assignment.assignment_id: Held(assignment, Phase.RUNNING)}, [StartProcess(assignment)]
    instructions: list[Instruction] = []
    for each in older:
        if each.phase is Phase.RUNNING:
            key = each.assignment.assignment_id
            kept[key] = msgspec.structs.replace(each, phase=Phase.ENDING)
            instructions.append(StopProcess(key))
    return {**kept, assignment.assignment_id: Held(assignment, Phase.WAITING)}, instructions


def on_withdraw(held: HeldMap, assignment_id: str) -> tuple[HeldMap, list[Instruction]]:
    """Stop an assignment; what has finished is forgotten, since nobody wants it any more."""
    each = held.get(assignment_id)
    if each is None:
        return held, []
    if each.phase is Phase.RUNNING:
        return {**held, assignment_id: msgspec.structs.replace(each, phase=Phase.ENDING)}, [StopProcess(assignment_id)]
    if each.phase is Phase.ENDING:
        return held, []
    return {key: other for key, other in held.items() if key != assignment_id}, []


def on_exit(held: HeldMap, assignment_id: str, outcome: Outcome) -> tuple[HeldMap, list[Instruction]]:
    """The process ended. A withdrawn one is reported as cancelled; who waited for the slot begins."""
    each = held.get(assignment_id)
    if each is None:
        return held, []
    if each.phase is Phase.ENDING:
        outcome = Outcome(error_code="cancelled", error_message="withdrawn by the coordinator")
    after = {**held, assignment_id: Held(each.assignment, Phase.FINISHED, outcome)}
    instructions: list[Instruction] = [ReportOutcome(assignment_id, outcome)]
    mine = slot(each.assignment)
    busy = any(
        slot(other.assignment) == mine and other.phase in (Phase.RUNNING, Phase.ENDING) for other in after.values()
    )
    for key, other in after.items():
        if slot(other.assignment) == mine and other.phase is Phase.WAITING and not busy:
            after[key] = msgspec.structs.replace(other, phase=Phase.RUNNING)
            instructions.append(StartProcess(other.assignment))
            break
    return after, instructions


def on_ack(held: HeldMap, assignment_id: str) -> HeldMap:
    """The coordinator has stored the outcome."""
    each = held.get(assignment_id)
    if each is None or each.phase is not Phase.FINISHED:
        return held
    return {key: other for key, other in held.items() if key != assignment_id}
