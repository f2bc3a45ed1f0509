"""The asyncio client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coriolis.errors import InvalidInput
from coriolis.ids import new_id
from coriolis.rpc.gen.coriolis.v1 import job_pb2, job_pb2_grpc
from coriolis.rpc.leader import LeaderClient
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import identity_of
from coriolis_client.records import TERMINAL, Endpoint, Event, Manifest, Migration, read_event

PAGE = 500


def _jobs(channel: Any) -> Any:
    return job_pb2_grpc.JobServiceStub(channel)


class Client:
    """Migrations of one project. Use it with ``async with``, or call ``close``. Raises errors of ``coriolis.errors``.

    ``tls_dir`` holds ca.pem, cert.pem and key.pem of an identity with the role client; it names the project.
    Without a leading coordinator every call waits for ``election_wait_s`` and then raises Unavailable.
    """

    def __init__(self, coordinators: Sequence[str], tls_dir: str | Path, *, election_wait_s: float = 25.0) -> None:
        tls = TlsFiles.in_directory(Path(tls_dir))
        identity = identity_of(tls.cert)
        if identity.role != "client":
            raise InvalidInput(f"{tls.cert} is for the role {identity.role}; a client certificate is needed")
        self.project_id = identity.project_id
        self._user = identity.id.partition("/")[2]
        self._leader = LeaderClient(coordinators, tls, election_wait_s=election_wait_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; running watches end."""
        await self._leader.close()

    async def create(
        self,
        *,
        origin: Endpoint,
        destination: Endpoint,
        instances: Sequence[str],
        replication_count: int = 0,
        shutdown_instances: bool = True,
        skip_os_morphing: bool = False,
        notes: str = "",
        request_id: str = "",
    ) -> Migration:
        """Start a migration. Repeating it with the same ``request_id`` makes no second one; one is made up if empty.

        ``replication_count`` is 1 to 10 sync passes, 0 means the default. ``InvalidInput`` names a wrong field.
        """
        request = job_pb2.CreateMigrationRequest(
            project_id=self.project_id,
            user_id=self._user,
            request_id=request_id or new_id(),
            origin=origin.message(),
            destination=destination.message(),
            instances=instances,
            replication_count=replication_count,
            shutdown_instances=shutdown_instances,
            skip_os_morphing=skip_os_morphing,
            notes=notes,
        )
        answer = await self._leader.call(lambda channel: _jobs(channel).CreateMigration, request, repeatable=True)
        return Migration.read(answer.migration)

    async def get(self, migration_id: str) -> Migration:
        """With tasks and disks. NotFound for an absent id and for one of another project."""
        request = job_pb2.GetMigrationRequest(project_id=self.project_id, migration_id=migration_id)
        answer = await self._leader.call(lambda channel: _jobs(channel).GetMigration, request, repeatable=True)
        return Migration.read(answer.migration)

    async def list(self, status: str = "") -> AsyncIterator[Migration]:
        """All of the project, newest first, without tasks; pages are fetched as they are needed."""
        marker, more = "", True
        while more:
            request = job_pb2.ListMigrationsRequest(
                project_id=self.project_id, limit=PAGE, marker=marker, status=status
            )
            answer = await self._leader.call(lambda channel: _jobs(channel).ListMigrations, request, repeatable=True)
            for message in answer.migrations:
                yield Migration.read(message)
                marker = message.id
            more = answer.more and bool(answer.migrations)

    async def watch(self, migration_id: str) -> AsyncIterator[Event]:
        """Events until the terminal state was given. After a change of leaders they start over with the state."""
        request = job_pb2.WatchMigrationRequest(project_id=self.project_id, migration_id=migration_id)
        messages = self._leader.stream(
            lambda channel: _jobs(channel).WatchMigration, request, lambda message: message.state.status in TERMINAL
        )
        async for message in messages:
            event = read_event(message)
            if event is not None:
                yield event

    async def cancel(self, migration_id: str, *, force: bool = False) -> None:
        """Conflict when it has ended. ``force`` does not wait for running tasks."""
        request = job_pb2.CancelMigrationRequest(project_id=self.project_id, migration_id=migration_id, force=force)
        await self._leader.call(lambda channel: _jobs(channel).CancelMigration, request, repeatable=True)

    async def delete(self, migration_id: str) -> None:
        """Forget an ended migration; Conflict for any other. Unavailable with ``outcome_unknown`` may have worked."""
        request = job_pb2.DeleteMigrationRequest(project_id=self.project_id, migration_id=migration_id)
        await self._leader.call(lambda channel: _jobs(channel).DeleteMigration, request, repeatable=False)

    async def manifests(self, migration_id: str) -> Sequence[Manifest]:
        """Of each sealed disk, without statements and leaves. No agent has to be there."""
        request = job_pb2.ListManifestsRequest(project_id=self.project_id, migration_id=migration_id)
        answer = await self._leader.call(lambda channel: _jobs(channel).ListManifests, request, repeatable=True)
        return tuple(map(Manifest.read, answer.manifests))

    async def manifest(self, migration_id: str, disk_id: str, *, instance: str = "") -> Manifest:
        """With all that a check needs. NotFound; Conflict when ``instance`` is needed to tell two disks apart."""
        request = job_pb2.GetManifestRequest(
            project_id=self.project_id, migration_id=migration_id, disk_id=disk_id, instance=instance
        )
        answer = await self._leader.call(lambda channel: _jobs(channel).GetManifest, request, repeatable=True)
        return Manifest.read(answer.manifest)
