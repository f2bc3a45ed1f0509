"""The mesh as the gateway's routes see it: calls to the leading coordinator, errors of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from coriolis.errors import NotFound, QuotaExceeded, Unavailable
from coriolis.model.bandwidth import Limit, Scope
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
from coriolis.rpc.leader import LeaderClient
from coriolis.rpc.limits import limit_message, scope_message
from gateway.paging import Page

PLAIN_PAGE = 1000
DETAIL_PAGE = 20
"""Tasks make migrations large; a page has to fit into one message (4 MiB)."""
TERMINAL = frozenset({"COMPLETED", "ERROR", "CANCELED"})


def _jobs(channel: Any) -> Any:
    return job_pb2_grpc.JobServiceStub(channel)


def _limits(channel: Any) -> Any:
    return bandwidth_pb2_grpc.BandwidthServiceStub(channel)


class MeshBackend:
    """Every call raises our errors; Unavailable after the wait for a leader."""

    def __init__(self, leader: LeaderClient) -> None:
        self._leader = leader

    async def close(self) -> None:
        await self._leader.close()

    async def ready(self) -> None:
        """Raises Unavailable while nobody leads."""
        await self._leader.find()

    async def create_migration(self, request: job_pb2.CreateMigrationRequest) -> job_pb2.Migration:
        """Repeatable: ``request.request_id`` is set."""
        assert request.request_id, "without a request id a repeated creation would make two migrations"
        answer = await self._leader.call(lambda channel: _jobs(channel).CreateMigration, request, repeatable=True)
        made: job_pb2.Migration = answer.migration
        return made

    async def get_migration(self, project_id: str, migration_id: str) -> job_pb2.Migration:
        request = job_pb2.GetMigrationRequest(project_id=project_id, migration_id=migration_id)
        answer = await self._leader.call(lambda channel: _jobs(channel).GetMigration, request, repeatable=True)
        found: job_pb2.Migration = answer.migration
        return found

    async def list_migrations(
        self, project_id: str, page: Page, *, with_tasks: bool
    ) -> tuple[list[job_pb2.Migration], bool]:
        """At most ``page.limit`` migrations, newest first, and whether more follow."""
        found: list[job_pb2.Migration] = []
        marker, more = page.marker, True
        size = DETAIL_PAGE if with_tasks else PLAIN_PAGE
        while more and len(found) < page.limit:
            request = job_pb2.ListMigrationsRequest(
                project_id=project_id,
                limit=min(size, page.limit - len(found)),
                marker=marker,
                with_tasks=with_tasks,
                status=page.status,
            )
            try:
                answer = await self._leader.call(
                    lambda channel: _jobs(channel).ListMigrations, request, repeatable=True
                )
            except QuotaExceeded:
                if size == 1:
                    raise
                size = max(1, size // 4)  # these migrations are larger than usual
                continue
            found += answer.migrations
            more = answer.more and bool(answer.migrations)
            marker = found[-1].id if found else ""
        return found, more

    async def cancel_migration(self, project_id: str, migration_id: str, *, force: bool) -> None:
        """Conflict when it has ended. Cancelling twice is the same as once, so it is repeatable."""
        request = job_pb2.CancelMigrationRequest(project_id=project_id, migration_id=migration_id, force=force)
        await self._leader.call(lambda channel: _jobs(channel).CancelMigration, request, repeatable=True)

    async def renew_credentials(self, project_id: str, migration_id: str, trust_id: str) -> None:
        """Conflict when it uses no trust. The last one given counts, so it is repeatable."""
        request = job_pb2.RenewCredentialsRequest(project_id=project_id, migration_id=migration_id, trust_id=trust_id)
        await self._leader.call(lambda channel: _jobs(channel).RenewCredentials, request, repeatable=True)

    async def delete_migration(self, project_id: str, migration_id: str) -> None:
        """Conflict unless it has ended."""
        request = job_pb2.DeleteMigrationRequest(project_id=project_id, migration_id=migration_id)
        pick = lambda channel: _jobs(channel).DeleteMigration  # noqa: E731
        await _once(self._leader, pick, request)

    def watch(self, project_id: str, migration_id: str) -> AsyncIterator[job_pb2.WatchMigrationResponse]:
        """Events until the terminal state; after a change of leaders they start over with the state."""
        request = job_pb2.WatchMigrationRequest(project_id=project_id, migration_id=migration_id)
        return self._leader.stream(
            lambda channel: _jobs(channel).WatchMigration, request, lambda event: event.state.status in TERMINAL
        )

    async def start_inspection(self, request: job_pb2.StartInspectionRequest) -> job_pb2.Inspection:
        # two inspections do no harm, they only read
        answer = await self._leader.call(lambda channel: _jobs(channel).StartInspection, request, repeatable=True)
        started: job_pb2.Inspection = answer.inspection
        return started

    async def get_inspection(self, project_id: str, inspection_id: str) -> job_pb2.Inspection:
        request = job_pb2.GetInspectionRequest(project_id=project_id, inspection_id=inspection_id)
        answer = await self._leader.call(lambda channel: _jobs(channel).GetInspection, request, repeatable=True)
        found: job_pb2.Inspection = answer.inspection
        return found

    async def start_survey(self, request: job_pb2.StartSurveyRequest) -> job_pb2.Survey:
        # as with inspections
        answer = await self._leader.call(lambda channel: _jobs(channel).StartSurvey, request, repeatable=True)
        started: job_pb2.Survey = answer.survey
        return started

    async def get_survey(self, project_id: str, survey_id: str) -> job_pb2.Survey:
        request = job_pb2.GetSurveyRequest(project_id=project_id, survey_id=survey_id)
        answer = await self._leader.call(lambda channel: _jobs(channel).GetSurvey, request, repeatable=True)
        found: job_pb2.Survey = answer.survey
        return found

    async def start_verification(
        self, project_id: str, migration_id: str, sample: str, seed: int | None
    ) -> job_pb2.Verification:
        """``sample`` empty: every cell. InvalidInput for a wrong one, Conflict when no machine is finished."""
        request = job_pb2.StartVerificationRequest(
            project_id=project_id, migration_id=migration_id, sample=sample, seed=seed
        )
        # two verifications do no harm, they only read
        answer = await self._leader.call(lambda channel: _jobs(channel).StartVerification, request, repeatable=True)
        started: job_pb2.Verification = answer.verification
        return started

    async def get_verification(self, project_id: str, migration_id: str, verification_id: str) -> job_pb2.Verification:
        request = job_pb2.GetVerificationRequest(
            project_id=project_id, migration_id=migration_id, verification_id=verification_id
        )
        answer = await self._leader.call(lambda channel: _jobs(channel).GetVerification, request, repeatable=True)
        found: job_pb2.Verification = answer.verification
        return found

    async def list_manifests(self, project_id: str, migration_id: str) -> list[job_pb2.Manifest]:
        request = job_pb2.ListManifestsRequest(project_id=project_id, migration_id=migration_id)
        answer = await self._leader.call(lambda channel: _jobs(channel).ListManifests, request, repeatable=True)
        return list(answer.manifests)

    async def get_manifest(self, project_id: str, migration_id: str, disk_id: str, instance: str) -> job_pb2.Manifest:
        """With statements and leaves. NotFound; Conflict when ``instance`` is needed to tell two disks apart."""
        request = job_pb2.GetManifestRequest(
            project_id=project_id, migration_id=migration_id, disk_id=disk_id, instance=instance
        )
        answer = await self._leader.call(lambda channel: _jobs(channel).GetManifest, request, repeatable=True)
        found: job_pb2.Manifest = answer.manifest
        return found

    async def list_agents(self, project_id: str) -> list[cluster_pb2.Agent]:
        """The agents that may work for the project."""
        answer = await self._leader.call(
            lambda channel: cluster_pb2_grpc.ClusterServiceStub(channel).ListAgents,
            cluster_pb2.ListAgentsRequest(),
            repeatable=True,
        )
        return [agent for agent in answer.agents if not agent.projects or project_id in agent.projects]

    async def list_links(self, project_id: str) -> list[cluster_pb2.Link]:
        """The ways between the sites of the agents that may work for the project."""
        answer = await self._leader.call(
            lambda channel: cluster_pb2_grpc.ClusterServiceStub(channel).ListLinks,
            cluster_pb2.ListLinksRequest(project_id=project_id),
            repeatable=True,
        )
        return list(answer.links)

    async def list_coordinators(self) -> list[cluster_pb2.Coordinator]:
        answer = await self._leader.call(
            lambda channel: cluster_pb2_grpc.ClusterServiceStub(channel).ListCoordinators,
            cluster_pb2.ListCoordinatorsRequest(),
            repeatable=True,
        )
        return list(answer.coordinators)

    async def put_secret(self, project_id: str, name: str, payload_json: str) -> endpoint_pb2.SecretInfo:
        request = endpoint_pb2.PutSecretRequest(project_id=project_id, name=name, payload_json=payload_json)
        answer = await self._leader.call(
            lambda channel: endpoint_pb2_grpc.SecretServiceStub(channel).PutSecret, request, repeatable=False
        )
        made: endpoint_pb2.SecretInfo = answer.secret
        return made

    async def list_secrets(self, project_id: str) -> list[endpoint_pb2.SecretInfo]:
        answer = await self._leader.call(
            lambda channel: endpoint_pb2_grpc.SecretServiceStub(channel).ListSecrets,
            endpoint_pb2.ListSecretsRequest(project_id=project_id),
            repeatable=True,
        )
        return list(answer.secrets)

    async def delete_secret(self, project_id: str, secret_id: str) -> None:
        request = endpoint_pb2.DeleteSecretRequest(project_id=project_id, secret_id=secret_id)
        pick = lambda channel: endpoint_pb2_grpc.SecretServiceStub(channel).DeleteSecret  # noqa: E731
        await _once(self._leader, pick, request)

    async def set_limit(self, project_id: str, limit: Limit) -> bandwidth_pb2.BandwidthLimit:
        """In force on return. NotFound for an unknown agent, site or job; setting it twice is the same as once."""
        request = bandwidth_pb2.SetLimitRequest(project_id=project_id, limit=limit_message(limit))
        answer = await self._leader.call(lambda channel: _limits(channel).SetLimit, request, repeatable=True)
        made: bandwidth_pb2.BandwidthLimit = answer.limit
        return made

    async def list_limits(self, project_id: str, *, include_mesh: bool) -> list[bandwidth_pb2.BandwidthLimit]:
        request = bandwidth_pb2.ListLimitsRequest(project_id=project_id, include_mesh=include_mesh)
        answer = await self._leader.call(lambda channel: _limits(channel).ListLimits, request, repeatable=True)
        return list(answer.limits)

    async def delete_limit(self, project_id: str, scope: Scope) -> None:
        """NotFound when there is none."""
        request = bandwidth_pb2.DeleteLimitRequest(project_id=project_id, scope=scope_message(scope))
        await _once(self._leader, lambda channel: _limits(channel).DeleteLimit, request)


async def _once(leader: LeaderClient, pick: Any, request: Any) -> None:
    """A deletion. When its outcome is unknown it is repeated, and then NotFound means that the first one worked."""
    try:
        await leader.call(pick, request, repeatable=False)
    except Unavailable as lost:
        if not lost.outcome_unknown:
            raise
        try:
            await leader.call(pick, request, repeatable=True)
        except NotFound:
            return
