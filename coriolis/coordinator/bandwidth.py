"""Bandwidth limits of a term: kept in memory and store, turned into rates every second, told to the sources."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from prometheus_client import Gauge

from coriolis.clock import Clock, wire_time
from coriolis.coordinator.agent_session import AgentSession
from coriolis.coordinator.assignments import assignment_id
from coriolis.coordinator.directory import AgentDirectory
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.sessions import Sessions, handed_out
from coriolis.coordinator.shares import DiskKey, DiskUse, LimitKey, SourceTask, UseMeter, share, worth_telling
from coriolis.coordinator.store import LimitStore
from coriolis.errors import InvalidInput, NotFound, QuotaExceeded
from coriolis.model.bandwidth import MAX_LIMITS, Limit, Scope, ScopeKind, check, rate_at
from coriolis.model.job import InstanceRun
from coriolis.model.task import ASSIGNED, Role, Task, TaskType
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb

log = structlog.get_logger(__name__)

PERIOD_S = 1.0
REST_S = 0.1
"""At least so long between divisions: many tasks that begin together are one of them."""
HOLD: dict[str, Any] = {"unlimited": False, "disks": {}}
"""To a source whose rates are not divided yet: it holds back (``coriolis.agent.paces``) until it is told."""

Grants = Mapping[str, float | None]
"""Bytes per second by disk id; None is no limit."""


class _Told:
    """What the agent of an assignment was last told, and in which of its sessions."""

    def __init__(self, session: AgentSession, grants: Grants, at: float) -> None:
        self.session = session
        self.grants = grants
        self.at = at


class Bandwidth:
    """All limits of the mesh. What the store refuses is not in force."""

    def __init__(
        self,
        store: LimitStore,
        driver: Driver,
        sessions: Sessions,
        board: ProgressBoard,
        directory: AgentDirectory,
        clock: Clock,
        gauge: Gauge | None = None,
    ) -> None:
        self._store = store
        self._driver = driver
        self._sessions = sessions
        self._board = board
        self._directory = directory
        self._clock = clock
        self._gauge = gauge
        self._limits: dict[Scope, Limit] = {}
        self._writing = asyncio.Lock()
        self._meter = UseMeter()
        self._grants: dict[DiskKey, float | None] = {}
        self._told: dict[str, _Told] = {}
        self._divided_at = -math.inf
        self._begun = asyncio.Event()

    async def load(self) -> None:
        """Take over what earlier leaders stored."""
        self._limits = {limit.scope: _usable(limit) for limit in await self._store.load_limits()}

    async def serve(self) -> None:
        """Divide and tell once a second, sooner when somebody begins, until cancelled."""
        while True:
            self.divide()
            await asyncio.sleep(REST_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S - REST_S):
                    await self._begun.wait()
            self._begun.clear()

    # -- limits -------------------------------------------------------------------------------------------------

    def limits(self) -> list[Limit]:
        """In the order of their scopes."""
        return [self._limits[scope] for scope in sorted(self._limits)]

    async def set(self, limit: Limit) -> Limit:
        """In force on return. Raises InvalidInput, NotFound for an unknown agent, site or job, QuotaExceeded."""
        check(limit)
        self._check_known(limit.scope)
        async with self._writing:
            before = self._limits.get(limit.scope)
            if before is None and len(self._limits) >= MAX_LIMITS:
                raise QuotaExceeded(f"{MAX_LIMITS} bandwidth limits are set; delete one first")
            now = wire_time(self._clock.now())
            made = Limit(
                limit.scope,
                limit.rate,
                limit.windows,
                limit.time_zone,
                created_at=before.created_at if before else now,
                updated_at=now if before else "",
            )
            await self._store.save_limit(made)
            self._limits[made.scope] = made
        self.divide()
        return made

    async def delete(self, scope: Scope) -> None:
        """Raises NotFound when the scope has no limit."""
        async with self._writing:
            if scope not in self._limits:
                raise NotFound(f"There is no bandwidth limit of the {scope.kind} {scope.name[:64]!r}.")
            await self._store.delete_limit(scope)
            self._limits.pop(scope, None)
        self.divide()

    def _check_known(self, scope: Scope) -> None:
        match scope.kind:
            case ScopeKind.JOB:
                migration = self._driver.migrations.get(scope.name)
                if migration is None or migration.project_id != scope.project_id:
                    raise NotFound(f'Migration with ID "{scope.name[:64]}" not found.')
            case ScopeKind.AGENT:
                if not self._directory.site(scope.name):
                    raise NotFound(f"Agent {scope.name[:64]!r} not found: none has registered under this id.")
            case ScopeKind.LINK:
                for site in scope.name.split("/"):
                    if site not in self._directory.sites():
                        raise NotFound(f"Site {site[:64]!r} not found: no agent has registered there.")
            case _:
                raise InvalidInput("scope.kind: unknown")

    def in_force(self) -> dict[LimitKey, float]:
        """Rates that bind now, by scope; limits of deleted jobs are forgotten on the way."""
        gone = [scope for scope in self._limits if self._is_gone(scope)]
        for scope in gone:
            del self._limits[scope]
        now = self._clock.now()
        rates = {scope: rate_at(limit, now) for scope, limit in self._limits.items()}
        self._show(rates)
        return {(scope.kind, scope.name): float(rate) for scope, rate in rates.items() if rate is not None}

    def of_link(self, link: tuple[str, str]) -> float | None:
        """What the limit of (origin site, destination site) is now, bytes per second; None: none."""
        return self.in_force().get((ScopeKind.LINK, "/".join(link)))

    def _is_gone(self, scope: Scope) -> bool:
        return scope.kind is ScopeKind.JOB and scope.name not in self._driver.migrations

    def _show(self, rates: Mapping[Scope, int | None]) -> None:
        if self._gauge is not None:
            self._gauge.clear()
            for scope, rate in rates.items():
                self._gauge.labels(scope.kind.value, scope.name).set(math.inf if rate is None else rate)

    # -- rates --------------------------------------------------------------------------------------------------

    def initial_rates(self, task_id: str) -> dict[str, Any]:
        """What a source that begins now may send; the others make room for it at once.

        ``HOLD`` while sites are not known, and when others began just before: the next division tells it.
        """
        if not self._limits:
            return {"unlimited": True, "disks": {}}
        if not self._directory.loaded or self._clock.monotonic() - self._divided_at < REST_S:
            self._begun.set()
            return HOLD
        self.divide()
        grants = {disk_id: rate for (task, disk_id), rate in self._grants.items() if task == task_id}
        limited = {disk_id: rate for disk_id, rate in grants.items() if rate is not None}
        return {"unlimited": not limited, "disks": limited}

    def divide(self) -> None:
        """Divide the limits in force among what runs now, and tell whom it concerns.

        Nothing changes until a new leader has read who is where: what the last one granted stays good.
        """
        if not self._directory.loaded:
            return
        now = self._divided_at = self._clock.monotonic()
        senders = [found for run in self._driver.all_runs() for found in self._senders(run, now)]
        self._grants = share([task for task, _, _ in senders], self.in_force())
        self._meter.keep(set(self._grants))
        for task, agent_id, assignment in senders:
            grants = {disk.disk_id: self._grants[task.task_id, disk.disk_id] for disk in task.disks}
            self._tell(agent_id, assignment, grants, now)
        running = {assignment for _, _, assignment in senders}
        self._told = {assignment: told for assignment, told in self._told.items() if assignment in running}

    def _senders(self, run: InstanceRun, now: float) -> list[tuple[SourceTask, str, str]]:
        """(task, source agent, assignment) of each task of the run that sends now."""
        found = []
        for task in run.tasks:
            source, sink = task.part(Role.SOURCE), task.part(Role.SINK)
            if task.task_type is not TaskType.REPLICATE_DISKS or task.status not in ASSIGNED:
                continue
            if source is None or sink is None or source.done or not handed_out(task, Role.SOURCE):
                continue
            agents = tuple(dict.fromkeys((source.agent_id, sink.agent_id)))
            link = "/".join(self._directory.site(agent) for agent in (source.agent_id, sink.agent_id))
            sending = SourceTask(task.id, run.migration_id, agents, link, self._disks(run, task, now))
            found.append((sending, source.agent_id, assignment_id(task.id, Role.SOURCE, task.generation)))
        return found

    def _disks(self, run: InstanceRun, task: Task, now: float) -> tuple[DiskUse, ...]:
        """Disks of the task: those that have volumes, and any that reported."""
        reports = {disk.disk_id: disk for disk in self._board.disks(run.migration_id) if disk.task_id == task.id}
        uses = []
        for disk_id in dict.fromkeys([*run.results.get("volumes", {}), *reports]):
            key = (task.id, disk_id)
            report = reports.get(disk_id)
            if report is not None:
                self._meter.take(key, report.sent_bytes, now)
            finished = report is not None and report.sealed
            uses.append(DiskUse(disk_id, self._meter.used(key), self._grants.get(key), finished))
        return tuple(uses)

    def _tell(self, agent_id: str, assignment: str, grants: Grants, now: float) -> None:
        session = self._sessions.of_agent(agent_id)
        if session is None:
            return
        told = self._told.get(assignment)
        if told and told.session is session and not worth_telling(told.grants, grants, now - told.at):
            return
        limited = {disk_id: rate for disk_id, rate in grants.items() if rate is not None}
        message = pb.Rates(assignment_id=assignment, unlimited=not limited, bytes_per_s=limited)
        if session.send(pb.SessionResponse(rates=message)):
            self._told[assignment] = _Told(session, grants, now)


def _usable(limit: Limit) -> Limit:
    """The limit without its calendar when this machine does not know the time zone: a leader must not end of it."""
    try:
        return check(limit)
    except InvalidInput as unknown:
        log.warning("calendar of a limit is not followed", scope=limit.scope, reason=unknown.message)
        return msgspec.structs.replace(limit, windows=(), time_zone="UTC")
