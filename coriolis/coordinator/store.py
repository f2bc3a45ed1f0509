"""Where jobs live. Every write is fenced: taken only while the writer's epoch leads and the record is as read.

``EtcdStore`` is the real one; ``MemoryStore`` has the same semantics for tests and the simulator. One contract suite
holds both to it.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from coriolis.errors import Conflict, NotFound, StaleEpoch
from coriolis.model.bandwidth import Limit, Scope, ScopeKind
from coriolis.model.job import InstanceRun, Migration


class StoredRun(msgspec.Struct, frozen=True):
    """``revision`` changes with every write of the record."""

    run: InstanceRun
    revision: int


class Loaded(msgspec.Struct, frozen=True):
    migrations: tuple[Migration, ...]
    runs: tuple[StoredRun, ...]


class RequestRecord(msgspec.Struct, frozen=True):
    """Remembers what a request id made; ``body_digest`` tells a repetition from a misuse."""

    migration_id: str
    body_digest: str


class RunRecord(msgspec.Struct, frozen=True):
    """A run as it lies in etcd. ``epoch``: of the leader that wrote it, evidence for auditing the fence."""

    epoch: int
    run: InstanceRun


class JobStore(Protocol):
    """All methods raise StaleEpoch when another coordinator leads, Unavailable when the store cannot be reached."""

    async def load(self) -> Loaded: ...

    async def find_request(self, project_id: str, request_id: str) -> RequestRecord | None: ...

    async def create(
        self, migration: Migration, runs: list[InstanceRun], request: RequestRecord | None
    ) -> list[StoredRun]:
        """Store a new migration in one transaction. Raises Conflict when its request id was used meanwhile."""
        ...

    async def save_run(self, run: InstanceRun, revision: int) -> int:
        """Replace the run read at ``revision``; returns the new one. Raises Conflict when it was changed meanwhile."""
        ...

    async def replace(self, migration: Migration) -> None:
        """Store another version of a known migration; the last write counts. Raises NotFound when it was deleted."""
        ...

    async def delete(self, migration: Migration) -> None:
        """Remove a migration and its bandwidth limit."""
        ...


class LimitStore(Protocol):
    """Bandwidth limits, one per scope. Raises as ``JobStore`` does; the last write counts."""

    async def load_limits(self) -> list[Limit]: ...

    async def save_limit(self, limit: Limit) -> None:
        """Raises NotFound for the limit of a job that is not stored."""
        ...

    async def delete_limit(self, scope: Scope) -> None:
        """An absent one is fine."""
        ...


def no_such_job(scope: Scope) -> NotFound:
    """What everybody says of a job that is absent or of another project."""
    return NotFound(f'Migration with ID "{scope.name[:64]}" not found.')


class MemoryStore:
    """A store for one process. ``epoch`` is the leader's; setting ``leading_epoch`` higher deposes it."""

    def __init__(self, epoch: int = 1, shared: MemoryStore | None = None) -> None:
        self.epoch = epoch
        self._root: MemoryStore = shared._root if shared else self
        if shared is None:
            self.leading_epoch = epoch
            self.migrations: dict[str, bytes] = {}
            self.runs: dict[tuple[str, int], tuple[bytes, int]] = {}
            self.requests: dict[tuple[str, str], RequestRecord] = {}
            self.limits: dict[Scope, bytes] = {}
            self.revision = 0

    def _fence(self) -> None:
        if self._root.leading_epoch != self.epoch:
            raise StaleEpoch(f"epoch {self.epoch} was replaced by {self._root.leading_epoch}")

    async def load(self) -> Loaded:
        root = self._root
        return Loaded(
            tuple(msgspec.json.decode(raw, type=Migration) for raw in root.migrations.values()),
            tuple(
                StoredRun(msgspec.json.decode(raw, type=InstanceRun), revision) for raw, revision in root.runs.values()
            ),
        )

    async def find_request(self, project_id: str, request_id: str) -> RequestRecord | None:
        return self._root.requests.get((project_id, request_id))

    async def create(
        self, migration: Migration, runs: list[InstanceRun], request: RequestRecord | None
    ) -> list[StoredRun]:
        self._fence()
        root = self._root
        if request is not None:
            key = (migration.project_id, migration.request_id)
            if key in root.requests:
                raise Conflict("the request id was used meanwhile")
            root.requests[key] = request
        root.revision += 1
        root.migrations[migration.id] = msgspec.json.encode(migration)
        for run in runs:
            root.runs[migration.id, run.index] = (msgspec.json.encode(run), root.revision)
        return [StoredRun(run, root.revision) for run in runs]

    async def save_run(self, run: InstanceRun, revision: int) -> int:
        self._fence()
        root = self._root
        key = (run.migration_id, run.index)
        if root.runs.get(key, (b"", 0))[1] != revision:
            raise Conflict("the run was changed meanwhile")
        root.revision += 1
        root.runs[key] = (msgspec.json.encode(run), root.revision)
        return root.revision

    async def replace(self, migration: Migration) -> None:
        self._fence()
        if migration.id not in self._root.migrations:
            raise NotFound(f'Migration with ID "{migration.id}" not found.')
        self._root.migrations[migration.id] = msgspec.json.encode(migration)

    async def delete(self, migration: Migration) -> None:
        self._fence()
        root = self._root
        root.migrations.pop(migration.id, None)
        root.requests.pop((migration.project_id, migration.request_id), None)
        root.limits.pop(Scope(ScopeKind.JOB, migration.id, migration.project_id), None)
        for key in [key for key in root.runs if key[0] == migration.id]:
            del root.runs[key]

    async def load_limits(self) -> list[Limit]:
        return [msgspec.json.decode(raw, type=Limit) for raw in self._root.limits.values()]

    async def save_limit(self, limit: Limit) -> None:
        self._fence()
        root, scope = self._root, limit.scope
        if scope.kind is ScopeKind.JOB:
            stored = root.migrations.get(scope.name)
            if stored is None or msgspec.json.decode(stored, type=Migration).project_id != scope.project_id:
                raise no_such_job(scope)
        root.limits[scope] = msgspec.json.encode(limit)

    async def delete_limit(self, scope: Scope) -> None:
        self._fence()
        self._root.limits.pop(scope, None)
