"""Runs each assignment in a process of its own and passes its words on. Outcomes are kept until acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from coriolis.agent.assignment import Assignment
from coriolis.agent.child_protocol import (
    MAX_LINE_BYTES,
    Call,
    Done,
    EventLine,
    Failed,
    Listening,
    ProgressLine,
    Rates,
    Reply,
    Start,
    decode_for_agent,
    encode_line,
)
from coriolis.agent.task_state import (
    HeldMap,
    Instruction,
    Outcome,
    Phase,
    ReportOutcome,
    StartProcess,
    StopProcess,
    on_ack,
    on_assign,
    on_exit,
    on_withdraw,
)
from coriolis.agent.workplace import Workplace
from coriolis.clock import SystemClock, wire_time
from coriolis.errors import CoriolisError
from coriolis.ids import is_id, new_id
from coriolis.rpc.gen.coriolis.v1 import types_pb2

log = structlog.get_logger(__name__)

STOP_GRACE_S = 5.0
MAX_UNREAD_BYTES = 1 << 20
"""A child that does not read (it is stopped) gets no more rates; it gets the newest when it reads again."""


class Coordinator(Protocol):
    """What the supervisor needs of the control session."""

    async def call(self, assignment: Assignment, method: str, arguments: dict[str, str]) -> dict[str, Any]:
        """Waits for a leader as long as it takes. Raises CoriolisError as the coordinator answered."""
        ...


Report = Callable[[Assignment, str, dict[str, Any]], None]
"""(assignment, state, fields of TaskUpdate)."""


class Supervisor:
    """Owner of all task processes of an agent."""

    def __init__(self, workplace: Workplace, coordinator: Coordinator) -> None:
        self._workplace = workplace
        self._coordinator = coordinator
        self._held: HeldMap = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._listening: dict[str, str] = {}
        self._rates: dict[str, Rates] = {}
        self._unwritten: set[str] = set()
        self._group: asyncio.TaskGroup | None = None
        self.report: Report = lambda assignment, state, fields: None
        self.progress: dict[tuple[str, str], types_pb2.DiskProgress] = {}
        """Latest progress per task and disk since the session last took it."""
        self.events: dict[str, list[types_pb2.TaskEvent]] = {}

    async def serve(self, ready: asyncio.Event) -> None:
        """Own the processes until cancelled; then stop them all."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                ready.set()
                await asyncio.Event().wait()
        finally:
            for process in self._processes.values():
                if process.returncode is None:
                    process.kill()

    def held(self) -> list[Assignment]:
        """Assignments to name in a hello."""
        return [each.assignment for each in self._held.values() if each.phase is not Phase.ENDING]

    def running(self) -> int:
        return len(self._processes)

    def assign(self, assignment: Assignment) -> None:
        self._held, instructions = on_assign(self._held, assignment)
        self._carry_out(instructions)

    def withdraw(self, assignment_id: str) -> None:
        self._held, instructions = on_withdraw(self._held, assignment_id)
        self._carry_out(instructions)

    def forget_migration(self, migration_id: str) -> None:
        """Remove the manifests of a deleted migration, unless a task of it still runs here."""
        busy = any(held.assignment.migration_id == migration_id for held in self._held.values())
        if is_id(migration_id) and not busy and self._group is not None:
            folder = self._workplace.manifests_of(migration_id)
            self._group.create_task(asyncio.to_thread(self._workplace.discard, folder))

    def set_rates(self, assignment_id: str, rates: Rates) -> None:
        """Pass on how fast a task's disks may send; a task that is about to start gets it then."""
        if assignment_id not in self._held:
            return
        self._rates[assignment_id] = rates
        process = self._processes.get(assignment_id)
        if process is not None and process.stdin is not None:
            self._write_rates(assignment_id, process.stdin)

    def _write_rates(self, assignment_id: str, stdin: asyncio.StreamWriter) -> None:
        """Write the newest rates, or remember that they are still to be written."""
        if assignment_id not in self._rates or stdin.is_closing():
            return
        if stdin.transport.get_write_buffer_size() < MAX_UNREAD_BYTES:
            stdin.write(encode_line(self._rates[assignment_id]))
            self._unwritten.discard(assignment_id)
        else:
            self._unwritten.add(assignment_id)

    def acknowledged(self, assignment_id: str) -> None:
        self._held = on_ack(self._held, assignment_id)

    def report_again(self) -> None:
        """After a new session: tell all outcomes that were not acknowledged, and who listens where."""
        for each in list(self._held.values()):
            if each.phase is Phase.FINISHED and each.outcome is not None:
                self._report_outcome(each.assignment, each.outcome)
            key = each.assignment.assignment_id
            if key in self._processes:
                self.report(each.assignment, "STARTED", {"process_id": self._processes[key].pid})
            if key in self._listening:
                self.report(each.assignment, "LISTENING", {"address": self._listening[key]})

    def _carry_out(self, instructions: list[Instruction]) -> None:
        assert self._group is not None
        for instruction in instructions:
            match instruction:
                case StartProcess(assignment):
                    self._group.create_task(self._run(assignment))
                case StopProcess(assignment_id):
                    self._group.create_task(self._stop(assignment_id))
                case ReportOutcome(assignment_id, outcome):
                    self._report_outcome(self._held[assignment_id].assignment, outcome)

    def _report_outcome(self, assignment: Assignment, outcome: Outcome) -> None:
        if outcome.error_code:
            fields = {"error_code": outcome.error_code, "error_message": outcome.error_message}
            self.report(assignment, "FAILED", fields)
        else:
            self.report(assignment, "COMPLETED", {"result_json": msgspec.json.encode(outcome.result).decode()})

    async def _run(self, assignment: Assignment) -> None:
        outcome = Outcome(error_code="task_died", error_message="the task's process ended without a result")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "coriolis.agent.task_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_LINE_BYTES,
            )
            self._processes[assignment.assignment_id] = process
            self.report(assignment, "STARTED", {"process_id": process.pid})
            log.info("task started", task=assignment.task_type, pid=process.pid, generation=assignment.generation)
            outcome = await self._converse(assignment, process) or outcome
            await process.wait()
        except OSError as failed:
            outcome = Outcome(error_code="unavailable", error_message=f"no process could be started: {failed}")
        finally:
            self._processes.pop(assignment.assignment_id, None)
            self._listening.pop(assignment.assignment_id, None)
            self._rates.pop(assignment.assignment_id, None)
            self._unwritten.discard(assignment.assignment_id)
            self._held, instructions = on_exit(self._held, assignment.assignment_id, outcome)
            self._carry_out(instructions)

    async def _converse(self, assignment: Assignment, process: asyncio.subprocess.Process) -> Outcome | None:
        assert process.stdin is not None
        assert process.stdout is not None
        outcome: Outcome | None = None
        process.stdin.write(encode_line(Start(assignment, self._workplace, os.getpid())))
        self._write_rates(assignment.assignment_id, process.stdin)
        answering: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as calls:
            while line := await process.stdout.readline():
                if assignment.assignment_id in self._unwritten:
                    self._write_rates(assignment.assignment_id, process.stdin)
                match decode_for_agent(line):
                    case Call() as call:
                        task = calls.create_task(self._answer(assignment, call, process.stdin))
                        answering.add(task)
                        task.add_done_callback(answering.discard)
                    case Listening(address):
                        self._listening[assignment.assignment_id] = address
                        self.report(assignment, "LISTENING", {"address": address})
                    case EventLine(level, message):
                        self._event(assignment, level, message)
                    case ProgressLine(disk):
                        progress = types_pb2.DiskProgress.FromString(disk)
                        self.progress[progress.task_id, progress.disk_id] = progress
                    case Done(result):
                        outcome = Outcome(result=result)
                    case Failed(code, message):
                        outcome = Outcome(error_code=code, error_message=message)
            # its output ended: calls that still wait for a leader have nobody to answer
            for task in list(answering):
                task.cancel()
        return outcome

    def _event(self, assignment: Assignment, level: str, message: str) -> None:
        event = types_pb2.TaskEvent(
            id=new_id(), level=level, message=message, created_at=wire_time(SystemClock().now())
        )
        self.events.setdefault(assignment.assignment_id, []).append(event)

    async def _answer(self, assignment: Assignment, call: Call, stdin: asyncio.StreamWriter) -> None:
        try:
            value = await self._coordinator.call(assignment, call.method, call.arguments)
            reply = Reply(call.call_id, value)
        except CoriolisError as refused:
            reply = Reply(call.call_id, {}, refused.code, refused.message)
        if not stdin.is_closing():
            stdin.write(encode_line(reply))

    async def _stop(self, assignment_id: str) -> None:
        process = self._processes.get(assignment_id)
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()  # also ends a stopped (SIGSTOP) process
