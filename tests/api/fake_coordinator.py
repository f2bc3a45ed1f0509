"""A FAKE coordinator: the services of the protos over mTLS, without etcd, agents or clouds.

For what a real one cannot be brought to do on demand: lose its leadership, die in mid-call, finish a migration now.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import msgspec

from coriolis.errors import Conflict, InvalidInput, NotFound, NotLeader, QuotaExceeded
from coriolis.ids import new_id
from coriolis.model.bandwidth import Limit, Scope, ScopeKind, check
from coriolis.rpc.gen.coriolis.v1 import (
    bandwidth_pb2,
    bandwidth_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    endpoint_pb2,
    endpoint_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
)
from coriolis.rpc.interceptors import AccessInterceptor, MethodPolicy
from coriolis.rpc.limits import answer_message, read_limit, read_scope
from coriolis.rpc.server import build_server
from coriolis.rpc.tls import TlsFiles
from tests.api.fake_records import now, sample_disk, sample_inspection, sample_manifest, sample_tasks
from tests.api.fake_surveys import PROVIDERS, FakeSurveys

TERMINAL = ("COMPLETED", "ERROR", "CANCELED")
MAX_MIGRATIONS = 5000
POLICY = MethodPolicy(
    {
        "/coriolis.v1.JobService/": ("gateway", "client"),
        "/coriolis.v1.SecretService/": ("gateway", "client"),
        "/coriolis.v1.BandwidthService/": ("gateway", "client"),
        "/coriolis.v1.ClusterService/": ("gateway",),
        "/coriolis.v1.ClusterService/GetLeader": ("gateway", "client"),
    }
)


@dataclass
class FakeMesh:
    """What all coordinators of one fake mesh share, as the real ones share etcd."""

    migrations: dict[str, job_pb2.Migration] = field(default_factory=dict)
    requests: dict[tuple[str, str], str] = field(default_factory=dict)
    secrets: dict[str, dict[str, endpoint_pb2.SecretInfo]] = field(default_factory=dict)
    limits: dict[Scope, Limit] = field(default_factory=dict)
    verifications: dict[str, job_pb2.Verification] = field(default_factory=dict)
    inspections: dict[tuple[str, str], job_pb2.Inspection] = field(default_factory=dict)
    surveys: dict[tuple[str, str], job_pb2.Survey] = field(default_factory=dict)
    watchers: list[tuple[str, asyncio.Queue[job_pb2.WatchMigrationResponse | None]]] = field(default_factory=list)
    leader: FakeCoordinator | None = None
    epoch: int = 1
    created: list[job_pb2.CreateMigrationRequest] = field(default_factory=list)

    def publish(self, migration_id: str, event: job_pb2.WatchMigrationResponse | None) -> None:
        for watched, queue in self.watchers:
            if watched == migration_id:
                queue.put_nowait(event)

    def move(self, migration_id: str, status: str) -> None:
        """Set the status of a migration and tell who watches."""
        migration = self.migrations[migration_id]
        migration.status, migration.updated_at = status, now()
        state = job_pb2.StateEvent(migration_id=migration_id, status=status, at=now())
        self.publish(migration_id, job_pb2.WatchMigrationResponse(state=state))
        if status in TERMINAL:
            self.publish(migration_id, None)

    def lead(self, coordinator: FakeCoordinator | None) -> None:
        """Make ``coordinator`` the leader of a new term; open streams end, as they do on a real change."""
        self.epoch += 1
        self.leader = coordinator
        for _, queue in self.watchers:
            queue.put_nowait(None)


class FakeCoordinator:
    """One fake process: listens, and answers as leader or refuses with the leader's address."""

    def __init__(self, mesh: FakeMesh, name: str, tls: TlsFiles) -> None:
        self.mesh, self.name = mesh, name
        self.calls: list[str] = []
        self.fail_next: list[BaseException] = []
        self._server, port = build_server("127.0.0.1:0", tls, [AccessInterceptor(POLICY)])
        self.address = f"127.0.0.1:{port}"
        job_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self), self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(_Cluster(self), self._server)
        bandwidth_pb2_grpc.add_BandwidthServiceServicer_to_server(_Limits(self), self._server)
        endpoint_pb2_grpc.add_SecretServiceServicer_to_server(_Secrets(self), self._server)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def enter(self, call: str) -> FakeMesh:
        """Raises NotLeader, or what the test asked for."""
        self.calls.append(call)
        if self.fail_next:
            raise self.fail_next.pop(0)
        leader = self.mesh.leader
        if leader is not self:
            raise NotLeader("this coordinator does not lead", leader_address=leader.address if leader else "")
        return self.mesh


def find(mesh: FakeMesh, project_id: str, migration_id: str) -> job_pb2.Migration:
    migration = mesh.migrations.get(migration_id)
    if migration is None or migration.project_id != project_id:
        raise NotFound(f'Migration with ID "{migration_id[:64]}" not found.')
    return migration


def masked(endpoint: endpoint_pb2.Endpoint) -> endpoint_pb2.Endpoint:
    info = {
        name: "***" if "password" in name else value
        for name, value in json.loads(endpoint.connection_info_json).items()
    }
    copy = endpoint_pb2.Endpoint()
    copy.CopyFrom(endpoint)
    copy.connection_info_json = json.dumps(info)
    return copy


class _Jobs(FakeSurveys, job_pb2_grpc.JobServiceServicer):
    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._me = coordinator

    async def CreateMigration(self, request: job_pb2.CreateMigrationRequest, context: Any) -> Any:
        mesh = self._me.enter("CreateMigration")
        mesh.created.append(request)
        known = mesh.requests.get((request.project_id, request.request_id))
        if known is not None:
            return job_pb2.CreateMigrationResponse(migration=mesh.migrations[known])
        for field_name, endpoint in (("origin", request.origin), ("destination", request.destination)):
            if endpoint.type not in PROVIDERS:
                raise InvalidInput(f"{field_name}.type {endpoint.type[:60]!r} is not served by any agent")
        if len(mesh.migrations) >= MAX_MIGRATIONS:
            raise QuotaExceeded("too many migrations")
        migration = job_pb2.Migration(
            id=new_id(), project_id=request.project_id, user_id=request.user_id, status="RUNNING",
            origin=masked(request.origin), destination=masked(request.destination), instances=request.instances,
            created_at=now(), execution_id=new_id(), notes=request.notes,
            replication_count=request.replication_count or 2,
            shutdown_instances=request.shutdown_instances if request.HasField("shutdown_instances") else True,
            skip_os_morphing=request.skip_os_morphing, user_scripts_json=request.user_scripts_json,
        )  # fmt: skip
        for instance in request.instances:
            migration.tasks.extend(sample_tasks(instance))
        migration.disks.append(sample_disk(migration))
        mesh.migrations[migration.id] = migration
        mesh.requests[request.project_id, request.request_id] = migration.id
        return job_pb2.CreateMigrationResponse(migration=migration)

    async def GetMigration(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("GetMigration")
        return job_pb2.GetMigrationResponse(migration=find(mesh, request.project_id, request.migration_id))

    async def ListMigrations(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("ListMigrations")
        mine = [one for one in mesh.migrations.values() if one.project_id == request.project_id]
        mine.sort(key=lambda one: (one.created_at, one.id), reverse=True)
        if request.marker:
            mine = mine[mine.index(find(mesh, request.project_id, request.marker)) + 1 :]
        if request.status:
            mine = [one for one in mine if one.status == request.status]
        page = []
        for one in mine[: request.limit or 1000]:
            copy = job_pb2.Migration()
            copy.CopyFrom(one)
            if not request.with_tasks:
                copy.ClearField("tasks")
                copy.ClearField("disks")
            page.append(copy)
        return job_pb2.ListMigrationsResponse(migrations=page, more=len(mine) > len(page))

    async def CancelMigration(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("CancelMigration")
        migration = find(mesh, request.project_id, request.migration_id)
        if migration.status in TERMINAL:
            raise Conflict(f"Migration is {migration.status}: there is nothing to cancel")
        mesh.move(migration.id, "CANCELED")
        return job_pb2.CancelMigrationResponse()

    async def DeleteMigration(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("DeleteMigration")
        migration = find(mesh, request.project_id, request.migration_id)
        if migration.status not in TERMINAL:
            raise Conflict(f"Migration is {migration.status}: cancel it or wait for its end before deleting it")
        del mesh.migrations[migration.id]
        return job_pb2.DeleteMigrationResponse()

    async def WatchMigration(self, request: Any, context: Any) -> AsyncIterator[Any]:
        mesh = self._me.enter("WatchMigration")
        migration = find(mesh, request.project_id, request.migration_id)
        queue: asyncio.Queue[job_pb2.WatchMigrationResponse | None] = asyncio.Queue()
        entry = (migration.id, queue)
        mesh.watchers.append(entry)
        try:
            state = job_pb2.StateEvent(migration_id=migration.id, status=migration.status, at=now())
            yield job_pb2.WatchMigrationResponse(state=state)
            for task in migration.tasks:
                yield job_pb2.WatchMigrationResponse(task=task)
            for disk in migration.disks:
                yield job_pb2.WatchMigrationResponse(disk=disk)
            while migration.status not in TERMINAL and (event := await queue.get()) is not None:
                yield event
        finally:
            mesh.watchers.remove(entry)

    async def StartVerification(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("StartVerification")
        migration = find(mesh, request.project_id, request.migration_id)
        if migration.status != "COMPLETED":
            raise Conflict("no machine of this migration is finished; there is nothing to verify")
        if request.sample.startswith("0"):
            raise InvalidInput("sample is nothing")
        cells = 52 if request.sample else 1024
        disk = job_pb2.VerifiedDisk(
            instance=migration.instances[0], disk_id="vda", checked_bytes=cells << 20, checked_cells=cells,
            size_bytes=1 << 30, cells=1024, root="2" * 64,
        )  # fmt: skip
        made = job_pb2.Verification(
            id=new_id(), migration_id=migration.id, status="COMPLETED", disks=[disk], sample=request.sample,
            seed=request.seed or 7 if request.sample else 0,
        )  # fmt: skip
        mesh.verifications[made.id] = made
        return job_pb2.StartVerificationResponse(
            verification=job_pb2.Verification(id=made.id, migration_id=migration.id, status="RUNNING")
        )

    async def GetVerification(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("GetVerification")
        find(mesh, request.project_id, request.migration_id)
        found = mesh.verifications.get(request.verification_id)
        if found is None or found.migration_id != request.migration_id:
            raise NotFound(f'Verification with ID "{request.verification_id[:64]}" not found.')
        return job_pb2.GetVerificationResponse(verification=found)

    async def StartInspection(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("StartInspection")
        if request.origin.type not in PROVIDERS:
            raise InvalidInput(f"origin.type {request.origin.type[:60]!r} is not served by any agent")
        made = sample_inspection(request.instance, request.target_platform)
        mesh.inspections[request.project_id, made.id] = made
        begun = job_pb2.Inspection(id=made.id, instance=made.instance, status="RUNNING", created_at=made.created_at)
        begun.target_platform = made.target_platform
        return job_pb2.StartInspectionResponse(inspection=begun)

    async def GetInspection(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("GetInspection")
        found = mesh.inspections.get((request.project_id, request.inspection_id))
        if found is None:
            raise NotFound(f'Inspection with ID "{request.inspection_id[:64]}" not found.')
        return job_pb2.GetInspectionResponse(inspection=found)

    async def ListManifests(self, request: Any, context: Any) -> Any:
        migration = find(self._me.enter("ListManifests"), request.project_id, request.migration_id)
        made = sample_manifest(migration)
        made.ClearField("statements")
        made.ClearField("leaves")
        return job_pb2.ListManifestsResponse(manifests=[made] if migration.status == "COMPLETED" else [])

    async def GetManifest(self, request: Any, context: Any) -> Any:
        migration = find(self._me.enter("GetManifest"), request.project_id, request.migration_id)
        made = sample_manifest(migration)
        if migration.status != "COMPLETED" or (request.disk_id, request.instance or made.instance) != (
            made.disk_id,
            made.instance,
        ):
            raise NotFound(f'Manifest of disk "{request.disk_id[:64]}" not found.')
        return job_pb2.GetManifestResponse(manifest=made)


class _Cluster(cluster_pb2_grpc.ClusterServiceServicer):
    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._me = coordinator

    async def GetLeader(self, request: Any, context: Any) -> Any:
        leader, epoch = self._me.mesh.leader, self._me.mesh.epoch
        if leader is None:
            return cluster_pb2.GetLeaderResponse()
        return cluster_pb2.GetLeaderResponse(coordinator_id=leader.name, address=leader.address, epoch=epoch)

    async def ListCoordinators(self, request: Any, context: Any) -> Any:
        self._me.enter("ListCoordinators")
        me = cluster_pb2.Coordinator(id=self._me.name, address=self._me.address, leader=True, version="0")
        return cluster_pb2.ListCoordinatorsResponse(coordinators=[me])

    async def ListAgents(self, request: Any, context: Any) -> Any:
        self._me.enter("ListAgents")
        schema = json.dumps({"type": "object"})
        providers = [
            cluster_pb2.ProviderInfo(
                type=name,
                capabilities_json=json.dumps({"origin": True, "destination": True}),
                connection_schema_json=schema,
                source_environment_schema_json=schema,
                destination_environment_schema_json=schema,
            )
            for name in PROVIDERS
        ]
        agents = [
            cluster_pb2.Agent(id="agent-a", site="a", version="0", alive=True, connected=True, providers=providers),
            cluster_pb2.Agent(id="agent-b", site="b", version="0", alive=True, projects=["0" * 32]),
        ]
        return cluster_pb2.ListAgentsResponse(agents=agents)

    async def ListLinks(self, request: Any, context: Any) -> Any:
        self._me.enter("ListLinks")
        relayed = cluster_pb2.Link(
            origin_site="a",
            destination_site="b",
            agents=["agent-a", "agent-b"],
            path="relay",
            relay="agent-c",
            rtt_ms=12.3456,
            speed_bytes_per_s=5 << 20,
            best_speed_bytes_per_s=9 << 20,
            state="OPEN",
            why="path relay: agent-a and agent-b both dial agent-c",
        )
        closed = cluster_pb2.Link(
            origin_site="b",
            destination_site="a",
            agents=["agent-b", "agent-a"],
            rtt_ms=-1,
            state="CLOSED",
            why="neither agent-a nor agent-b can be dialled",
        )
        return cluster_pb2.ListLinksResponse(links=[relayed, closed])


class _Secrets(endpoint_pb2_grpc.SecretServiceServicer):
    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._me = coordinator

    async def PutSecret(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("PutSecret")
        info = endpoint_pb2.SecretInfo(id=new_id(), name=request.name, created_at=now())
        mesh.secrets.setdefault(request.project_id, {})[info.id] = info
        return endpoint_pb2.PutSecretResponse(secret=info)

    async def ListSecrets(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("ListSecrets")
        return endpoint_pb2.ListSecretsResponse(secrets=mesh.secrets.get(request.project_id, {}).values())

    async def DeleteSecret(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("DeleteSecret")
        if mesh.secrets.get(request.project_id, {}).pop(request.secret_id, None) is None:
            raise NotFound(f'Secret with ID "{request.secret_id[:64]}" not found.')
        return endpoint_pb2.DeleteSecretResponse()


class _Limits(bandwidth_pb2_grpc.BandwidthServiceServicer):
    def __init__(self, coordinator: FakeCoordinator) -> None:
        self._me = coordinator

    async def SetLimit(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("SetLimit")
        limit = check(read_limit(request.limit, request.project_id))
        if limit.scope.kind is ScopeKind.JOB:
            find(mesh, request.project_id, limit.scope.name)
        elif "absent" in limit.scope.name:
            raise NotFound(f"{limit.scope.name[:64]!r} not found")
        made = msgspec.structs.replace(limit, created_at=now())
        mesh.limits[limit.scope] = made
        return bandwidth_pb2.SetLimitResponse(limit=answer_message(made, datetime.now(UTC)))

    async def ListLimits(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("ListLimits")
        found = [
            answer_message(limit, datetime.now(UTC))
            for scope, limit in sorted(mesh.limits.items())
            if (scope.project_id == request.project_id if scope.kind is ScopeKind.JOB else request.include_mesh)
        ]
        return bandwidth_pb2.ListLimitsResponse(limits=found)

    async def DeleteLimit(self, request: Any, context: Any) -> Any:
        mesh = self._me.enter("DeleteLimit")
        scope = read_scope(request.scope, request.project_id)
        if mesh.limits.pop(scope, None) is None:
            raise NotFound(f"There is no bandwidth limit of the {scope.kind} {scope.name[:64]!r}.")
        return bandwidth_pb2.DeleteLimitResponse()


Channel = grpc.aio.Channel
