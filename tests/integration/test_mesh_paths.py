"""Sites behind firewalls: whoever may dial does, a relay copies what it cannot read, and losing it is survived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coriolis.rpc.gen.coriolis.v1 import cluster_pb2, job_pb2
from tests.fault.mesh import Mesh, summary
from tests.integration.mesh_calls import MIB, Sites
from tests.integration.site_networks import SiteNetworks, Wire, available
from tests.integration.test_mesh_image import sha256

pytestmark = [pytest.mark.asyncio, pytest.mark.skipif(not available(), reason="needs root, ip, nft and tc")]

A, B, C, D = "site-a", "site-b", "site-c", "site-d"
PORTS = {A: 7710, B: 7720, C: 7730, D: 7740}
MARKER = b"this line of the disk must never be readable on the way. " * 64


@pytest.fixture
def networks() -> Iterator[SiteNetworks]:
    with SiteNetworks((A, B, C, D)) as made:
        yield made


@asynccontextmanager
async def mesh_on(
    networks: SiteNetworks,
    directory: Path,
    sites: Sites,
    *relays: str,
    coordinators: int = 1,
    **settings: dict[str, Any],
) -> AsyncIterator[Mesh]:
    """Agents of A (near the origin), B (near the destination) and the relays, each in its namespace."""
    mesh = Mesh(
        directory,
        sites=(A, B, *relays),
        coordinators=coordinators,
        host=networks.hub,
        agent_prefix={site: networks.prefix(site) for site in (A, B, *relays)},
    )
    etcd_port = int(mesh.etcd.endpoints[0].rpartition(":")[2])
    near = {A: sites.origin, B: sites.destination}
    mesh._agent_settings = {
        site: {
            "data_bind": networks.address(site),
            "data_ports": f"{PORTS[site]}-{PORTS[site] + 9}",
            "relay": site in relays,
            # relays sit near no cloud
            "offers": [{"type": "image", "match": [{"path": str(near.get(site, "/nowhere"))}]}],
            "etcd": {"endpoints": [f"http://{networks.hub}:{etcd_port}"]},
            **settings.get(site.replace("-", "_"), {}),
        }
        for site in (A, B, *relays)
    }
    async with Wire(networks.hub, etcd_port, "127.0.0.1", etcd_port), mesh:
        yield mesh


def notes(migration: job_pb2.Migration) -> list[str]:
    """Events about paths, in order."""
    return [event.message for task in migration.tasks for event in task.events if event.message.startswith("path ")]


def assert_arrived(migration: job_pb2.Migration, sites: Sites) -> None:
    assert migration.status == "COMPLETED", summary(migration)
    made = sites.destination / "vm.disks" / "disk-0.raw"
    assert sha256(made, sites.size) == sha256(sites.origin / "disk.img")


async def sent(mesh: Mesh, migration_id: str, count: int) -> job_pb2.Migration:
    """The migration once that many bytes of its disk were sent."""
    deadline = time.monotonic() + 60
    while not (running := await mesh.get(migration_id)).disks or running.disks[0].sent_bytes < count:
        assert time.monotonic() < deadline, summary(running)
        await asyncio.sleep(0.1)
    return running


async def link(mesh: Mesh, origin: str, destination: str, **wanted: object) -> cluster_pb2.Link:
    """The link once its fields are as wanted."""
    deadline = time.monotonic() + 45
    while True:
        answer = await mesh.call("ListLinks", cluster_pb2.ListLinksRequest(), service="cluster")
        [found] = [each for each in answer.links if (each.origin_site, each.destination_site) == (origin, destination)]
        if all(getattr(found, name) == value for name, value in wanted.items()):
            return found
        assert time.monotonic() < deadline, f"not {wanted}: {answer}"
        await asyncio.sleep(0.2)


async def test_a_destination_that_only_dials_out(networks: SiteNetworks, tmp_path: Path) -> None:
    sites = Sites(tmp_path, 20 * MIB)
    networks.refuse_inbound(B)
    async with mesh_on(networks, tmp_path / "mesh", sites) as mesh:
        migration = await mesh.wait(await mesh.migrate(sites.request()))
        assert_arrived(migration, sites)
        assert notes(migration) == [f"path reverse: {B} dials {A}, which cannot dial it"]
        there = await link(mesh, A, B, state="OPEN", path="reverse")
        assert 0 < there.rtt_ms < 1000
        assert there.best_speed_bytes_per_s > 0
        assert (await link(mesh, B, A, state="OPEN")).path == "dialled"


async def test_an_origin_that_only_dials_out(networks: SiteNetworks, tmp_path: Path) -> None:
    sites = Sites(tmp_path, 20 * MIB)
    networks.refuse_inbound(A)
    async with mesh_on(networks, tmp_path / "mesh", sites) as mesh:
        migration = await mesh.wait(await mesh.migrate(sites.request()))
        assert_arrived(migration, sites)
        assert notes(migration) == [f"path dialled: {A} dials {B}"]


async def test_what_an_agent_declares_needs_no_measurement(networks: SiteNetworks, tmp_path: Path) -> None:
    sites = Sites(tmp_path, 3 * MIB)
    async with mesh_on(networks, tmp_path / "mesh", sites, site_b={"inbound": "none"}) as mesh:
        migration = await mesh.wait(await mesh.migrate(sites.request()))
        assert_arrived(migration, sites)
        assert notes(migration) == [f"path reverse: {B} dials {A}, which cannot dial it"]


async def test_a_relay_copies_what_it_cannot_read(networks: SiteNetworks, tmp_path: Path) -> None:
    sites = Sites(tmp_path, 24 * MIB)
    (sites.origin / "disk.img").write_bytes((MARKER * (sites.size // len(MARKER) + 1))[: sites.size])
    networks.refuse_inbound(A)
    networks.refuse_inbound(B)
    port = PORTS[C]
    seen_by_relay = Wire(networks.hub, port, networks.address(C), port, remember=True)
    advertised = {"data_advertise": networks.hub, "data_ports": str(port)}
    async with mesh_on(networks, tmp_path / "mesh", sites, C, site_c=advertised) as mesh, seen_by_relay:
        migration = await mesh.wait(await mesh.migrate(sites.request()))
        assert_arrived(migration, sites)
        assert notes(migration) == [f"path relay: {A} and {B} both dial {C}, which copies encrypted bytes"]
        assert (await link(mesh, A, B, state="OPEN", path="relay")).relay == C
    carried = [bytes(stream) for stream in seen_by_relay.carried]
    assert sum(stream.startswith(b"CRLS") for stream in carried) > 4, "the wire saw the connections from their start"
    assert max(len(stream) for stream in carried) > MIB
    assert not any(MARKER[:24] in stream for stream in carried)


@pytest.mark.parametrize("relays", [(C,), (C, D)])
async def test_a_relay_that_dies_is_survived(networks: SiteNetworks, tmp_path: Path, relays: tuple[str, ...]) -> None:
    sites = Sites(tmp_path, 48 * MIB)
    networks.refuse_inbound(A)
    networks.refuse_inbound(B)
    networks.slow_down(A, 48)
    async with mesh_on(networks, tmp_path / "mesh", sites, *relays) as mesh:
        migration_id = await mesh.migrate(sites.request())
        [note] = notes(await sent(mesh, migration_id, 8 * MIB))
        used = C if f"dial {C}" in note else D
        mesh.agents[used].kill()
        assert (await mesh.get(migration_id)).status == "RUNNING", "the relay was to die during the transfer"
        if len(relays) == 1:
            mesh.agents[used].start()
        migration = await mesh.wait(migration_id, timeout_s=180)
        assert_arrived(migration, sites)
        if len(relays) == 2:
            other = D if used == C else C
            assert f"dial {other}" in notes(migration)[-1]


async def test_a_new_leader_knows_the_key(networks: SiteNetworks, tmp_path: Path) -> None:
    """The relayed transfer goes on; nothing of it was stored where others could read it."""
    sites = Sites(tmp_path, 96 * MIB)
    networks.refuse_inbound(A)
    networks.refuse_inbound(B)
    networks.slow_down(A, 48)
    async with mesh_on(networks, tmp_path / "mesh", sites, C, coordinators=2) as mesh:
        migration_id = await mesh.migrate(sites.request())
        await sent(mesh, migration_id, 8 * MIB)
        leader, _ = await mesh.leader()
        mesh.coordinators[leader].kill()
        migration = await mesh.wait(migration_id, timeout_s=180)
        assert (await mesh.leader())[0] != leader
        assert_arrived(migration, sites)
        assert len(notes(migration)) == 1, "one attempt: the election did not touch the transfer"


async def test_without_any_way_the_task_says_what_to_do(networks: SiteNetworks, tmp_path: Path) -> None:
    sites = Sites(tmp_path, 3 * MIB)
    networks.refuse_inbound(A)
    networks.refuse_inbound(B)
    async with mesh_on(networks, tmp_path / "mesh", sites) as mesh:
        migration_id = await mesh.migrate(sites.request())
        deadline = time.monotonic() + 60
        while "relay = true" not in summary(running := await mesh.get(migration_id)):
            assert running.status == "RUNNING", summary(running)
            assert time.monotonic() < deadline, summary(running)
            await asyncio.sleep(0.2)
        closed = await link(mesh, A, B, state="CLOSED")
        assert "no answer" in closed.why
        # the operator opens a port: nobody has to start again
        networks.allow_inbound(A)
        assert_arrived(await mesh.wait(migration_id, timeout_s=150), sites)
