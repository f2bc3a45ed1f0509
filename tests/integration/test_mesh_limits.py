"""Bandwidth limits in a real mesh: what is set counts within seconds, is shared equally and outlives the leader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from coriolis.errors import Denied, NotFound
from coriolis.model.bandwidth import Limit, Rate, Scope, ScopeKind
from coriolis.rpc.channel import open_channel
from coriolis.rpc.gen.coriolis.v1 import bandwidth_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import bandwidth_pb2_grpc, cluster_pb2
from coriolis.rpc.limits import limit_message, read_limit, scope_message
from coriolis.rpc.status import to_error
from coriolis.security.pki import issue
from tests.fault.mesh import DOMAIN, PROJECT, Mesh, summary
from tests.integration.mesh_calls import FOREIGN, cancel
from tests.integration.test_mesh_image import describe, request, sha256, write_disk

MB = 10**6
MIB = 1 << 20
LINK = Scope(ScopeKind.LINK, "site-a/site-b")
SETTLED_S = 2.0
"""After a change: one report (1 Hz) is still from before it, one is half."""
WINDOW_S = 3.0
START_S = 60.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("limits"), coordinators=2) as running:
        yield running


async def set_limit(mesh: Mesh, scope: Scope, rate: Rate) -> None:
    message = pb.SetLimitRequest(project_id=PROJECT, limit=limit_message(Limit(scope, rate)))
    await mesh.call("SetLimit", message, service="bandwidth")


async def delete_limit(mesh: Mesh, scope: Scope) -> None:
    message = pb.DeleteLimitRequest(project_id=PROJECT, scope=scope_message(scope))
    await mesh.call("DeleteLimit", message, service="bandwidth")


async def listed(mesh: Mesh) -> dict[Scope, Rate]:
    wish = pb.ListLimitsRequest(project_id=PROJECT, include_mesh=True)
    limits = [read_limit(one, PROJECT) for one in (await mesh.call("ListLimits", wish, service="bandwidth")).limits]
    return {limit.scope: limit.rate for limit in limits}


async def connected(mesh: Mesh, count: int) -> None:
    """Return when so many agents have a session; a coordinator may be down."""
    deadline = time.monotonic() + START_S
    while True:
        answer = await mesh.call("ListAgents", cluster_pb2.ListAgentsRequest(), service="cluster")
        if sum(agent.connected for agent in answer.agents) >= count:
            return
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.1)


async def start(mesh: Mesh, folder: Path, disks: int, size: int) -> str:
    """A running migration of one machine from site-a to site-b, its first bytes sent."""
    origin, destination = folder / "a", folder / "b"
    origin.mkdir(parents=True)
    destination.mkdir()
    for number in range(disks):
        write_disk(origin / f"{number}.img", size, [(0, size)], seed=number)
    describe(origin, "vm", [(f"{number}.img", "raw") for number in range(disks)])
    migration_id = await mesh.migrate(request(origin, destination, ["vm"]))
    deadline = time.monotonic() + START_S
    while await sent(mesh, migration_id) == 0:
        assert time.monotonic() < deadline, summary(await mesh.get(migration_id))
        await asyncio.sleep(0.2)
    migration = await mesh.get(migration_id)
    [task] = [task for task in migration.tasks if task.task_type == "REPLICATE_DISKS"]
    assert sorted(task.host.split(",")) == ["site-a", "site-b"], task.host
    return migration_id


async def sent(mesh: Mesh, migration_id: str) -> int:
    migration = await mesh.get(migration_id)
    assert migration.status in ("RUNNING", "COMPLETED", "CANCELLING"), summary(migration)
    return sum(disk.sent_bytes for disk in migration.disks)


async def speeds(mesh: Mesh, *migration_ids: str, window_s: float = WINDOW_S) -> list[float]:
    """MB/s of each over the window."""
    before, began = [await sent(mesh, each) for each in migration_ids], time.monotonic()
    await asyncio.sleep(window_s)
    after, took = [await sent(mesh, each) for each in migration_ids], time.monotonic() - began
    return [(end - begin) / took / MB for begin, end in zip(before, after, strict=True)]


async def test_a_change_counts_within_five_seconds(mesh: Mesh, tmp_path: Path) -> None:
    """Settling and measuring together are five seconds after each change."""
    await set_limit(mesh, LINK, 4 * MB)
    job = await start(mesh, tmp_path, 1, 160 * MIB)
    began, before = time.monotonic(), await sent(mesh, job)
    assert before < 30 * MB, "the limit counts from the first byte"
    for scope, rate, low, high in (
        (LINK, 4 * MB, 2.0, 6.0),
        (LINK, 12 * MB, 8.0, 16.0),
        (Scope(ScopeKind.JOB, job, PROJECT), 2 * MB, 1.0, 3.5),
        (Scope(ScopeKind.JOB, job, PROJECT), 0, 0.0, 0.2),
        (Scope(ScopeKind.JOB, job, PROJECT), None, 8.0, 16.0),
        (Scope(ScopeKind.AGENT, "site-b"), 3 * MB, 1.5, 5.0),
    ):
        await set_limit(mesh, scope, rate)
        await asyncio.sleep(SETTLED_S)
        [speed] = await speeds(mesh, job)
        assert low <= speed <= high, f"{scope.kind} {rate}: {speed:.1f} MB/s"
    assert (await sent(mesh, job) - before) / (time.monotonic() - began) < 12 * MB
    await delete_limit(mesh, Scope(ScopeKind.AGENT, "site-b"))
    await delete_limit(mesh, LINK)
    migration = await mesh.wait(job, timeout_s=30)
    assert migration.status == "COMPLETED", summary(migration)
    assert sha256(tmp_path / "b" / "vm.disks" / "disk-0.raw", 160 * MIB) == sha256(tmp_path / "a" / "0.img")


async def test_two_jobs_share_a_link_equally_and_take_what_the_other_leaves(mesh: Mesh, tmp_path: Path) -> None:
    await set_limit(mesh, LINK, 12 * MB)
    one = await start(mesh, tmp_path / "one", 1, 200 * MIB)
    other = await start(mesh, tmp_path / "other", 3, 100 * MIB)
    await asyncio.sleep(SETTLED_S)
    first, second = await speeds(mesh, one, other, window_s=6.0)
    assert first + second < 12 * 1.25
    assert first + second > 12 * 0.7
    assert 0.7 < first / second < 1.4, (first, second)
    await cancel(mesh, other)
    await mesh.wait(other, timeout_s=30)
    await asyncio.sleep(SETTLED_S)
    [alone] = await speeds(mesh, one)
    assert 8.0 <= alone <= 16.0
    await cancel(mesh, one)
    await mesh.wait(one, timeout_s=30)
    await delete_limit(mesh, LINK)


async def test_grants_hold_without_a_leader_and_the_next_one_knows_the_limits(mesh: Mesh, tmp_path: Path) -> None:
    await set_limit(mesh, LINK, 3 * MB)
    job = await start(mesh, tmp_path, 1, 200 * MIB)
    before, began = await sent(mesh, job), time.monotonic()
    leader, _ = await mesh.leader()
    mesh.coordinators[leader].kill()
    assert (await listed(mesh))[LINK] == 3 * MB
    await connected(mesh, 2)
    await asyncio.sleep(SETTLED_S)
    moved, took = await sent(mesh, job) - before, time.monotonic() - began
    assert 1.5 * MB < moved / took < 4 * MB, f"{moved} bytes in {took:.1f} s without a leader"
    await set_limit(mesh, LINK, 12 * MB)
    await asyncio.sleep(SETTLED_S)
    [speed] = await speeds(mesh, job)
    assert 8.0 <= speed <= 16.0
    await cancel(mesh, job)
    await mesh.wait(job, timeout_s=30)
    mesh.coordinators[leader].start()
    await delete_limit(mesh, LINK)


async def test_limits_are_for_what_there_is(mesh: Mesh) -> None:
    for scope in (
        Scope(ScopeKind.AGENT, "absent"),
        Scope(ScopeKind.LINK, "site-a/absent"),
        Scope(ScopeKind.JOB, "11111111-2222-4333-8444-555555555555", PROJECT),
    ):
        with pytest.raises(NotFound):
            await set_limit(mesh, scope, MB)


async def test_a_clients_certificate_reaches_its_projects_jobs_only(mesh: Mesh) -> None:
    ca = mesh.dir / "ca"
    tls = issue(ca, mesh.dir / "tls" / "client", f"spiffe://{DOMAIN}/client/{PROJECT}/alice")
    limit = limit_message(Limit(Scope(ScopeKind.AGENT, "site-a"), MB))
    refused = {
        "SetLimit": pb.SetLimitRequest(project_id=PROJECT, limit=limit),
        "DeleteLimit": pb.DeleteLimitRequest(project_id=PROJECT, scope=limit.scope),
        "ListLimits": pb.ListLimitsRequest(project_id=PROJECT, include_mesh=True),
    }
    _, address = await mesh.leader()
    async with open_channel(address, tls, expected_role="coordinator") as channel:
        stub = bandwidth_pb2_grpc.BandwidthServiceStub(channel)
        assert await stub.ListLimits(pb.ListLimitsRequest(project_id=PROJECT), timeout=5) is not None
        foreign = pb.ListLimitsRequest(project_id=FOREIGN)
        for method, wish in [*refused.items(), ("ListLimits", foreign)]:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await getattr(stub, method)(wish, timeout=5)
            assert isinstance(to_error(failed.value), Denied)
