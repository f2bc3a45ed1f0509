"""The Python client, async and sync, against two fake coordinators over mTLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coriolis_client import Client, DiskProgressed, Endpoint, StateChanged, SyncClient, TaskChanged

from coriolis.errors import Conflict, InvalidInput, NotFound, Unavailable
from coriolis.rpc import leader
from coriolis.security.pki import issue
from tests.api.fake_coordinator import FakeCoordinator, FakeMesh
from tests.api.stack import DOMAIN, fake_mesh

PROJECT = "a1b2c3d4e5f64718a9b0c1d2e3f40516"
ORIGIN = Endpoint("libvirt", {"uri": "qemu:///system", "password": "open sesame"})
DESTINATION = Endpoint("libvirt", {"secret_id": "s"}, {"network_map": {"a": "b"}})

Mesh = tuple[FakeMesh, list[FakeCoordinator]]


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with fake_mesh(tmp_path) as running:
        for name, project in (("client", PROJECT), ("stranger", "f" * 32)):
            issue(tmp_path / "ca", tmp_path / name, f"spiffe://{DOMAIN}/client/{project}/robot")
        yield running


def addresses(mesh: Mesh) -> list[str]:
    return [coordinator.address for coordinator in mesh[1]]


async def test_life_of_a_migration(mesh: Mesh, tmp_path: Path) -> None:
    async with Client(addresses(mesh), tmp_path / "client") as client:
        made = await client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"], request_id="r")
        assert made == await client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"], request_id="r")
        assert made.project_id == PROJECT
        assert made.origin.connection_info["password"] == "***"
        assert "sesame" not in repr(ORIGIN)
        assert [one.id async for one in client.list()] == [made.id]
        assert [one.id async for one in client.list(status="ERROR")] == []
        with pytest.raises(Conflict):
            await client.delete(made.id)
        assert await client.manifests(made.id) == ()
        mesh.move(made.id, "COMPLETED")
        [listed] = await client.manifests(made.id)
        shown = await client.manifest(made.id, "vda")
        assert (listed.root, listed.deployed_root, listed.statements) == (shown.root, shown.deployed_root, ())
        assert shown.statements[0][1] == b"s"
        with pytest.raises(NotFound):
            await client.manifest(made.id, "vda", instance="vm-02")
        mesh.move(made.id, "RUNNING")
        await client.cancel(made.id, force=True)
        assert (await client.get(made.id)).ended
        await client.delete(made.id)
        with pytest.raises(NotFound):
            await client.get(made.id)
        with pytest.raises(InvalidInput, match=r"origin\.type"):
            await client.create(origin=Endpoint("smoke"), destination=DESTINATION, instances=["vm-01"])


async def test_watch_goes_on_across_leaders(mesh: Mesh, tmp_path: Path) -> None:
    shared, (first, second) = mesh
    async with Client(addresses(mesh), tmp_path / "client") as client:
        made = await client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"])
        kinds = []
        async for event in client.watch(made.id):
            kinds.append(type(event))
            if kinds == [StateChanged, TaskChanged, TaskChanged, DiskProgressed]:
                shared.lead(second)
                await first.stop()
            elif len(kinds) == 8:
                shared.move(made.id, "COMPLETED")
        assert kinds == [StateChanged, TaskChanged, TaskChanged, DiskProgressed] * 2 + [StateChanged]
        assert (await client.get(made.id)).status == "COMPLETED"


async def test_a_silent_stream_of_a_deposed_leader_is_left(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "IDLE_CHECK_S", 0.2)
    shared, (first, second) = mesh
    async with Client(addresses(mesh), tmp_path / "client") as client:
        made = await client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"])
        kinds = []
        async for event in client.watch(made.id):
            kinds.append(type(event))
            if len(kinds) == 4:
                # as a partitioned leader does: its stream stays open and says nothing more
                shared.leader, shared.epoch = second, shared.epoch + 1
                shared.migrations[made.id].status = "COMPLETED"
        assert kinds[4:6] == [StateChanged]
        assert first.calls.count("WatchMigration") == second.calls.count("WatchMigration") == 1


async def test_a_renewed_certificate_is_used(mesh: Mesh, tmp_path: Path) -> None:
    async with Client(addresses(mesh), tmp_path / "client") as client:
        assert [one async for one in client.list()] == []
        (tmp_path / "client" / "cert.pem").unlink()
        issue(tmp_path / "ca", tmp_path / "client", f"spiffe://{DOMAIN}/client/{PROJECT}/renewed")
        await client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"])
        assert len(mesh[0].created) == 1


async def test_projects_are_apart(mesh: Mesh, tmp_path: Path) -> None:
    async with Client(addresses(mesh), tmp_path / "client") as client:
        made = await client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"])
    async with Client(addresses(mesh), tmp_path / "stranger") as stranger:
        assert [one async for one in stranger.list()] == []
        with pytest.raises(NotFound):
            await stranger.get(made.id)


async def test_without_a_leader_it_gives_up_in_time(mesh: Mesh, tmp_path: Path) -> None:
    mesh[0].lead(None)
    async with Client(addresses(mesh), tmp_path / "client", election_wait_s=0.5) as client:
        with pytest.raises(Unavailable, match="no coordinator leads"):
            await client.get("x")
        with pytest.raises(Unavailable):
            [event async for event in client.watch("x")]
    with pytest.raises(InvalidInput, match="client certificate"):
        Client(addresses(mesh), tmp_path / "gateway")
    with pytest.raises(InvalidInput, match="coordinators"):
        Client([], tmp_path / "client")


async def test_the_sync_twin(mesh: Mesh, tmp_path: Path) -> None:
    def work() -> list[type]:
        with SyncClient(addresses(mesh), tmp_path / "client") as client:
            made = client.create(origin=ORIGIN, destination=DESTINATION, instances=["vm-01"])
            assert [one.id for one in client.list()] == [made.id]
            for event in client.watch(made.id):
                assert isinstance(event, StateChanged)
                break
            client.cancel(made.id)
            kinds = [type(event) for event in client.watch(made.id)]
            client.delete(made.id)
            with pytest.raises(NotFound):
                client.get(made.id)
            return kinds

    assert await asyncio.to_thread(work) == [StateChanged]


def test_both_twins_have_the_same_methods() -> None:
    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public | {"project_id"} == {name for name in dir(SyncClient) if not name.startswith("_")}
