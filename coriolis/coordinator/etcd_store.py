"""``JobStore`` and ``LimitStore`` on etcd: every write is one transaction under the leader's fence (fence 1)."""

from __future__ import annotations

import msgspec

from coriolis.coordinator import keys
from coriolis.coordinator.leadership import fence
from coriolis.coordinator.store import Loaded, RequestRecord, RunRecord, StoredRun, no_such_job
from coriolis.errors import Conflict, NotFound, StaleEpoch, Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.records import KeyValue
from coriolis.etcd.txn import Delete, DeletePrefix, Put, Txn, absent, modified_at, present
from coriolis.model.bandwidth import Limit, Scope, ScopeKind
from coriolis.model.job import InstanceRun, Migration


class EtcdStore:
    """Jobs of the term ``epoch``. Reads are of the whole subtree once; afterwards the leader's memory is the truth."""

    def __init__(self, client: EtcdClient, epoch: int) -> None:
        self._client = client
        self._epoch = epoch

    async def load(self) -> Loaded:
        listing = await self._client.list(keys.JOBS)
        migrations: list[Migration] = []
        runs: list[StoredRun] = []
        for key, item in listing.items.items():
            named = keys.parse_job(key)
            if named is None:
                continue
            if named.instance_index is None:
                migrations.append(msgspec.json.decode(item.value, type=Migration))
            else:
                record = msgspec.json.decode(item.value, type=RunRecord)
                runs.append(StoredRun(record.run, item.mod_revision))
        known = {migration.id for migration in migrations}
        return Loaded(tuple(migrations), tuple(run for run in runs if run.run.migration_id in known))

    def _record(self, run: InstanceRun) -> bytes:
        return msgspec.json.encode(RunRecord(self._epoch, run))

    async def find_request(self, project_id: str, request_id: str) -> RequestRecord | None:
        item = await self._client.get(keys.request(project_id, request_id))
        return msgspec.json.decode(item.value, type=RequestRecord) if item else None

    async def create(
        self, migration: Migration, runs: list[InstanceRun], request: RequestRecord | None
    ) -> list[StoredRun]:
        project, job = migration.project_id, migration.id
        compares = [fence(self._epoch), absent(keys.job_spec(project, job))]
        puts = [Put(keys.job_spec(project, job), msgspec.json.encode(migration))]
        puts += [Put(keys.job_run(project, job, run.index), self._record(run)) for run in runs]
        if request is not None:
            key = keys.request(project, migration.request_id)
            compares.append(absent(key))
            puts.append(Put(key, msgspec.json.encode(request)))
        # Repeated when its outcome is unknown: a read could come before a transaction that is still on its way, the
        # same transaction cannot, since the compare on the absent spec lets only one of the two take place.
        result = await self._client.commit(Txn(tuple(compares), tuple(puts)), idempotent=True)
        if result.succeeded:
            return [StoredRun(run, result.revision) for run in runs]
        await self._check_epoch()
        item = await self._client.get(keys.job_spec(project, job))
        if item is not None:  # ids are never drawn twice: this is our own first attempt
            return [StoredRun(run, item.mod_revision) for run in runs]
        raise Conflict("the request id was used meanwhile")

    async def save_run(self, run: InstanceRun, revision: int) -> int:
        key = keys.job_run(run.project_id, run.migration_id, run.index)
        value = self._record(run)
        txn = Txn((fence(self._epoch), modified_at(key, revision)), (Put(key, value),))
        try:
            result = await self._client.commit(txn)
        except Unavailable as unknown:
            if not unknown.outcome_unknown:
                raise
            return await self._settle(key, value, revision, unknown)
        if not result.succeeded:
            await self._check_epoch()
            # our own earlier attempt, whose answer was lost, may have been applied meanwhile
            return await self._settle(key, value, revision, Conflict("the run was changed meanwhile"))
        return result.revision

    async def _settle(self, key: str, value: bytes, revision: int, otherwise: Exception) -> int:
        """Whether a write of unknown outcome took place decides the record itself."""
        item: KeyValue | None = await self._client.get(key)
        if item is not None and item.mod_revision > revision and item.value == value:
            return item.mod_revision
        raise otherwise

    async def replace(self, migration: Migration) -> None:
        key = keys.job_spec(migration.project_id, migration.id)
        txn = Txn((fence(self._epoch), present(key)), (Put(key, msgspec.json.encode(migration)),))
        # repeated when its outcome is unknown: the leader writes one version after the other
        result = await self._client.commit(txn, idempotent=True)
        if not result.succeeded:
            await self._check_epoch()
            raise NotFound(f'Migration with ID "{migration.id}" not found.')

    async def delete(self, migration: Migration) -> None:
        operations: list[Delete | DeletePrefix] = [
            DeletePrefix(keys.job_prefix(migration.project_id, migration.id)),
            Delete(_limit_key(Scope(ScopeKind.JOB, migration.id, migration.project_id))),
        ]
        if migration.request_id:
            operations.append(Delete(keys.request(migration.project_id, migration.request_id)))
        result = await self._client.commit(Txn((fence(self._epoch),), tuple(operations)), idempotent=True)
        if not result.succeeded:
            raise StaleEpoch(f"epoch {self._epoch} was replaced")

    async def load_limits(self) -> list[Limit]:
        listing = await self._client.list(keys.LIMITS)
        return [msgspec.json.decode(item.value, type=Limit) for item in listing.items.values()]

    async def save_limit(self, limit: Limit) -> None:
        scope = limit.scope
        compares = [fence(self._epoch)]
        if scope.kind is ScopeKind.JOB:
            # a job that is deleted at this moment takes its limit with it, or refuses it
            compares.append(present(keys.job_spec(scope.project_id, scope.name)))
        txn = Txn(tuple(compares), (Put(_limit_key(scope), msgspec.json.encode(limit)),))
        # repeated when its outcome is unknown: the leader writes a scope's limits one after the other
        result = await self._client.commit(txn, idempotent=True)
        if not result.succeeded:
            await self._check_epoch()
            raise no_such_job(scope)

    async def delete_limit(self, scope: Scope) -> None:
        result = await self._client.commit(Txn((fence(self._epoch),), (Delete(_limit_key(scope)),)), idempotent=True)
        if not result.succeeded:
            raise StaleEpoch(f"epoch {self._epoch} was replaced")

    async def _check_epoch(self) -> None:
        leader = await self._client.get(keys.LEADER)
        if leader is None or leader.create_revision != self._epoch:
            raise StaleEpoch(f"epoch {self._epoch} was replaced")


def _limit_key(scope: Scope) -> str:
    return keys.limit(scope.kind, scope.name, scope.project_id)
