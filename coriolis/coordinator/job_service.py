"""JobService: what gateways and clients may ask of the leader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import msgspec

from coriolis.coordinator.directory import AgentDirectory
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.inspection import Inspections
from coriolis.coordinator.manifests import find_manifest, list_manifests
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.requests import body_digest, build_migration, uses_trust
from coriolis.coordinator.store import JobStore, RequestRecord
from coriolis.coordinator.survey import Surveys
from coriolis.coordinator.vault import Vault
from coriolis.coordinator.verification import Verifications
from coriolis.coordinator.views import migration_message, task_message
from coriolis.errors import Conflict, Denied, InvalidInput, NotFound
from coriolis.ids import is_id
from coriolis.model.job import TERMINAL, ExecutionStatus, InstanceRun, Migration
from coriolis.model.task import TaskStatus
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2, job_pb2_grpc
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb
from coriolis.rpc.identity import peer_identity

MAX_PAGE = 1000

TellAgent = Callable[[str, agent_control_pb2.SessionResponse], bool]
"""Send to an agent by its id; False when it has no session."""

Context = grpc.aio.ServicerContext[Any, Any]


def check_project(context: Context, project_id: str) -> None:
    """Clients speak for the project in their certificate only; gateways and operators for any. Raises Denied."""
    if not project_id:
        raise InvalidInput("project_id is empty")
    identity = peer_identity(context)
    if identity.role == "client" and identity.project_id != project_id:
        raise Denied("the certificate is for another project")


class JobService(job_pb2_grpc.JobServiceServicer):
    """Reads from the driver's memory, writes through the fenced store."""

    def __init__(
        self,
        store: JobStore,
        driver: Driver,
        board: ProgressBoard,
        directory: AgentDirectory,
        vault: Vault,
        verifications: Verifications,
        inspections: Inspections,
        surveys: Surveys,
        tell_agent: TellAgent = lambda agent_id, message: False,
    ) -> None:
        self._store = store
        self._driver = driver
        self._board = board
        self._directory = directory
        self._vault = vault
        self._verifications = verifications
        self._inspections = inspections
        self._surveys = surveys
        self._tell_agent = tell_agent

    def _find(self, project_id: str, migration_id: str) -> Migration:
        """The same NotFound for an absent, a malformed and a foreign id."""
        migration = self._driver.migrations.get(migration_id) if is_id(migration_id) else None
        if migration is None or migration.project_id != project_id:
            raise NotFound(f'Migration with ID "{migration_id[:64]}" not found.')
        return migration

    def _message(self, migration: Migration, *, with_tasks: bool = True) -> pb.Migration:
        runs = self._driver.runs(migration.id)
        return migration_message(migration, runs, self._board, with_tasks=with_tasks)

    async def CreateMigration(self, request: pb.CreateMigrationRequest, context: Context) -> pb.CreateMigrationResponse:
        check_project(context, request.project_id)
        digest = body_digest(request)
        if request.request_id and (again := await self._repeated(request, digest)):
            return pb.CreateMigrationResponse(migration=again)
        now = self._driver.now()
        migration = await build_migration(request, self._directory.providers(), self._vault, now)
        runs = plan_migration(migration)
        record = RequestRecord(migration.id, digest) if request.request_id else None
        try:
            stored = await self._store.create(migration, runs, record)
        except Conflict:
            if request.request_id and (again := await self._repeated(request, digest)):
                return pb.CreateMigrationResponse(migration=again)
            raise
        await self._driver.submit(migration, stored)
        return pb.CreateMigrationResponse(migration=self._message(migration))

    async def _repeated(self, request: pb.CreateMigrationRequest, digest: str) -> pb.Migration | None:
        record = await self._store.find_request(request.project_id, request.request_id)
        if record is None:
            return None
        if record.body_digest != digest:
            raise Conflict("this request id was used before with another body")
        migration = await self._driver.find_stored(record.migration_id)
        if migration is None:
            raise Conflict("the migration that this request id made was deleted")
        return self._message(migration)

    async def GetMigration(self, request: pb.GetMigrationRequest, context: Context) -> pb.GetMigrationResponse:
        check_project(context, request.project_id)
        return pb.GetMigrationResponse(migration=self._message(self._find(request.project_id, request.migration_id)))

    async def ListMigrations(self, request: pb.ListMigrationsRequest, context: Context) -> pb.ListMigrationsResponse:
        check_project(context, request.project_id)
        limit = request.limit or MAX_PAGE
        if limit > MAX_PAGE:
            raise InvalidInput(f"limit is {limit}; at most {MAX_PAGE} migrations fit on a page")
        if request.status and request.status not in ExecutionStatus.__members__:
            raise InvalidInput(f"status {request.status[:40]!r} is none of {', '.join(ExecutionStatus)}")
        mine = sorted(
            (migration for migration in self._driver.migrations.values() if migration.project_id == request.project_id),
            key=lambda migration: (migration.created_at, migration.id),
            reverse=True,
        )
        if request.marker:
            marker = self._find(request.project_id, request.marker)
            mine = mine[mine.index(marker) + 1 :]
        if request.status:
            mine = [migration for migration in mine if self._driver.status(migration.id) == request.status]
        page = [self._message(migration, with_tasks=request.with_tasks) for migration in mine[:limit]]
        return pb.ListMigrationsResponse(migrations=page, more=len(mine) > limit)

    async def CancelMigration(self, request: pb.CancelMigrationRequest, context: Context) -> pb.CancelMigrationResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        status = self._driver.status(migration.id)
        if status in TERMINAL:
            raise Conflict(f"Migration is {status}: there is nothing to cancel")
        await self._driver.cancel(migration.id)
        return pb.CancelMigrationResponse()

    async def RenewCredentials(
        self, request: pb.RenewCredentialsRequest, context: Context
    ) -> pb.RenewCredentialsResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        if not any(map(uses_trust, (migration.transfer.origin, migration.transfer.destination))):
            raise Conflict("Migration has credentials of its own: no Keystone trust is used for it")
        if not request.trust_id:
            raise InvalidInput("trust_id is empty")
        sealed = await self._vault.seal_trust(request.project_id, migration.execution_id, request.trust_id)
        await self._driver.replace(msgspec.structs.replace(migration, sealed_trust=sealed))
        return pb.RenewCredentialsResponse()

    async def DeleteMigration(self, request: pb.DeleteMigrationRequest, context: Context) -> pb.DeleteMigrationResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        status = self._driver.status(migration.id)
        if status not in TERMINAL:
            raise Conflict(f"Migration is {status}: cancel it or wait for its end before deleting it")
        if any(run.residue() for run in self._driver.runs(migration.id)):
            raise Conflict("Migration has left resources that are still being removed; see its residue")
        runs = self._driver.runs(migration.id)
        workers = {part.agent_id for run in runs for task in run.tasks for part in task.parts}
        await self._driver.delete(migration.id)
        self._board.forget(migration.id)
        forget = agent_control_pb2.ForgetMigration(migration_id=migration.id)
        for agent_id in sorted(workers):
            # one that is away keeps its manifests: they cost space and nobody can reach them any more
            self._tell_agent(agent_id, agent_control_pb2.SessionResponse(forget_migration=forget))
        return pb.DeleteMigrationResponse()

    async def WatchMigration(
        self, request: pb.WatchMigrationRequest, context: Context
    ) -> AsyncIterator[pb.WatchMigrationResponse]:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        status = self._driver.status(migration.id)
        with self._board.watching(migration.id, status) as watcher:
            yield state_event(migration.id, status, self._driver.now())
            for run in self._driver.runs(migration.id):
                for task in run.tasks:
                    if task.status not in (TaskStatus.SCHEDULED, TaskStatus.EXECUTE_ON_ERROR_ONLY):
                        yield pb.WatchMigrationResponse(task=task_message(run, task, self._board.disks(migration.id)))
            for disk in self._board.disks(migration.id):
                yield pb.WatchMigrationResponse(disk=disk)
            if status in TERMINAL:
                return
            async for event in watcher.events():
                yield event

    async def StartVerification(
        self, request: pb.StartVerificationRequest, context: Context
    ) -> pb.StartVerificationResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        seed = request.seed if request.HasField("seed") else None
        return pb.StartVerificationResponse(verification=self._verifications.start(migration, request.sample, seed))

    async def GetVerification(self, request: pb.GetVerificationRequest, context: Context) -> pb.GetVerificationResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        found = self._verifications.get(migration.id, request.verification_id)
        return pb.GetVerificationResponse(verification=found)

    async def StartInspection(self, request: pb.StartInspectionRequest, context: Context) -> pb.StartInspectionResponse:
        check_project(context, request.project_id)
        started = await self._inspections.start(request, self._directory.providers())
        return pb.StartInspectionResponse(inspection=started)

    async def GetInspection(self, request: pb.GetInspectionRequest, context: Context) -> pb.GetInspectionResponse:
        check_project(context, request.project_id)
        found = self._inspections.get(request.project_id, request.inspection_id)
        return pb.GetInspectionResponse(inspection=found)

    async def StartSurvey(self, request: pb.StartSurveyRequest, context: Context) -> pb.StartSurveyResponse:
        check_project(context, request.project_id)
        started = await self._surveys.start(request, self._directory.providers())
        return pb.StartSurveyResponse(survey=started)

    async def GetSurvey(self, request: pb.GetSurveyRequest, context: Context) -> pb.GetSurveyResponse:
        check_project(context, request.project_id)
        found = self._surveys.get(request.project_id, request.survey_id)
        return pb.GetSurveyResponse(survey=found)

    async def ListManifests(self, request: pb.ListManifestsRequest, context: Context) -> pb.ListManifestsResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        return pb.ListManifestsResponse(manifests=list_manifests(self._driver.runs(migration.id)))

    async def GetManifest(self, request: pb.GetManifestRequest, context: Context) -> pb.GetManifestResponse:
        check_project(context, request.project_id)
        migration = self._find(request.project_id, request.migration_id)
        found = find_manifest(self._driver.runs(migration.id), request.disk_id, request.instance)
        return pb.GetManifestResponse(manifest=found)


def state_event(migration_id: str, status: str, at: str) -> pb.WatchMigrationResponse:
    return pb.WatchMigrationResponse(state=pb.StateEvent(migration_id=migration_id, status=status, at=at))


class ChangePublisher:
    """Turns stored changes of runs into watch events."""

    def __init__(self, board: ProgressBoard) -> None:
        self._board = board
        self.driver: Driver | None = None

    def __call__(self, migration: Migration, before: InstanceRun, after: InstanceRun) -> None:
        old = {task.id: task for task in before.tasks}
        disks = self._board.disks(migration.id)
        for task in after.tasks:
            if task is not old[task.id] and task.status is not TaskStatus.EXECUTE_ON_ERROR_ONLY:
                self._board.publish(migration.id, pb.WatchMigrationResponse(task=task_message(after, task, disks)))
        assert self.driver is not None
        status = self.driver.status(migration.id)
        self._board.publish(migration.id, state_event(migration.id, status, after.updated_at))
        if status in TERMINAL:
            self._board.end_watchers(migration.id)
