"""Servers that run in a real OpenStack leave through the whole mesh: for another project, and for libvirt."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openstack")
from coriolis.providers.openstack.rest import ask, listed
from coriolis.rpc.gen.coriolis.v1 import endpoint_pb2, job_pb2
from tests.contract.openstack_destination import FLAVOR, NETWORK, Project
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.keystone_mesh import END, KeystoneMesh, keystone_mesh
from tests.integration.mesh_calls import cancel
from tests.integration.openstack_guests import FREE_AT, MIB, Guest, Guests, clear_all
from tests.integration.test_openstack_destination import console_says
from tests.lab import guest_domain
from tests.lab.openstack_site import Account, Cloud

pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
    pytest.mark.timeout(900),  # the machine may be busy: alone each takes one or two minutes
]
MIGRATION_S = 400
BOOT_S = 180.0
CHANGED = ((0, FREE_AT), (0, FREE_AT + 40 * MIB), (1, FREE_AT + 7 * MIB))
"""(disk, offset) of what the guests write after they were frozen."""
WRITTEN = 65536
READ_LIMIT = 6 * MIB
"""Bytes per second: the first pass shall last until the guests have written."""


@pytest.fixture(scope="module")
def guests(whole_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    made = Guests(whole_cloud, tmp_path_factory.mktemp("guests"))
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def other(whole_cloud: Cloud) -> Iterator[Project]:
    made = Project(whole_cloud)
    try:
        yield made
    finally:
        clear_all(made)


@asynccontextmanager
async def meshed(folder: Path, guests: Guests) -> AsyncIterator[Mesh]:
    """Two agents on the storage network, with a staging directory each; the origin's guests run."""
    await asyncio.to_thread(guests.run)
    async with Mesh(folder / "mesh", agent_settings=settings(folder, guests), read_limit=READ_LIMIT) as mesh:
        yield mesh


def settings(folder: Path, guests: Guests) -> dict[str, dict[str, Any]]:
    """Of the agents of both sites."""
    found: dict[str, dict[str, Any]] = {}
    for site in ("site-a", "site-b"):
        staging = folder / "staging" / site
        staging.mkdir(parents=True)
        mounts = str(guests.project.mount_dir)
        found[site] = {"staging_dir": str(staging), "cinder_drivers": ["nfs"], "cinder_mount_dir": mounts}
    return found


def request(guests: Guests, destination: endpoint_pb2.Endpoint, *names: str) -> job_pb2.CreateMigrationRequest:
    return job_pb2.CreateMigrationRequest(
        origin=endpoint("openstack", guests.project.connection_info),
        destination=destination,
        instances=names or [guest.name for guest in guests.all],
        skip_os_morphing=True,
        replication_count=2,
    )


def to_project(project: Project, **target: Any) -> endpoint_pb2.Endpoint:
    where = {"flavor_name": FLAVOR, "network_map": {NETWORK: NETWORK}, "storage_mappings": {"default": "nfs"}}
    return endpoint("openstack", project.connection_info, {**where, "keep_mac": True, **target})


async def write_while_frozen(mesh: Mesh, migration_id: str, guests: Guests, pattern: int) -> job_pb2.Migration:
    """Each guest writes once its disks are read for the first time; the migration when it is terminal."""
    left, deadline = list(guests.all), time.monotonic() + MIGRATION_S
    while True:
        migration = await mesh.get(migration_id)
        for guest in list(left):
            if len(reading(migration, guest)) == len(guest.truth):
                left.remove(guest)
                for disk, offset in CHANGED:
                    if disk < len(guest.truth):
                        await asyncio.to_thread(guests.write, guest, disk, offset, WRITTEN, pattern)
        if migration.status != "RUNNING":
            assert not left, summary(migration)
            return migration
        assert time.monotonic() < deadline, summary(migration)
        await asyncio.sleep(0.1)


def reading(migration: job_pb2.Migration, guest: Guest, number: int = 1) -> list[Any]:
    """Disks of the guest that a pass has begun to read."""
    disks = [disk for disk in migration.disks if disk.instance == guest.name and disk.pass_number == number]
    return [disk for disk in disks if disk.read_bytes]


def assert_small_second_pass(migration: job_pb2.Migration, guests: Sequence[Guest]) -> None:
    for guest in guests:
        for number, disk_id in enumerate(guest.truth):
            of_disk = [one for one in migration.disks if (one.instance, one.disk_id) == (guest.name, disk_id)]
            first, second = sorted(of_disk, key=lambda disk: disk.pass_number)
            changed = sum(disk == number for disk, _ in CHANGED)
            told = f"{guest.name}/{number}: sent {first.sent_bytes}, then {second.sent_bytes}"
            print(f"{told}; written {first.written_bytes}, then {second.written_bytes}")
            assert (first.sealed, second.sealed) == (True, True)
            assert second.written_bytes == changed * WRITTEN, told
            assert 0 < second.sent_bytes < first.sent_bytes / 10, told


def ends_of(migration: job_pb2.Migration) -> dict[tuple[str, str], str]:
    return {(task.instance, task.task_type): task.status for task in migration.tasks}


async def test_without_credentials_the_callers_own_project_is_looked_into_and_copied(
    guests: Guests, tmp_path: Path
) -> None:
    """Both ends act by the trust of the caller, whose token is revoked meanwhile. The copy cannot have the MAC."""
    who, mine = guests.project.account, guests.project
    async with keystone_mesh(guests.cloud, tmp_path, agent_settings=settings(tmp_path, guests)) as running:
        await asyncio.to_thread(guests.run)
        found = await inspected(running, who, "pair")
        assert (found["status"], found["message"]) == ("COMPLETED", None), found
        assert (found["system"]["title"], found["convertible"]) == ("Ubuntu 14.04 LTS", True)
        assert guests.leftovers(tmp_path / "staging") == []
        target = {"network_map": {NETWORK: NETWORK}, "flavor_name": FLAVOR, "instance_name": "copy"}
        body = {
            "origin": {"type": "openstack", "connection_info": {}},
            "destination": {"type": "openstack", "target_environment": target},
            "instances": ["local"],
            "skip_os_morphing": True,
            "replication_count": 1,
            "shutdown_instances": False,
        }
        token = who.token()
        with running.client(who) as client:
            client.headers["X-Auth-Token"] = token
            answer = client.post("/migrations", json={"migration": body})
        assert answer.status_code == 200, answer.text
        guests.cloud.admin.session().delete(f"{guests.cloud.auth_url}/auth/tokens", headers={"X-Subject-Token": token})
        made = answer.json()["migration"]["id"]
        ended = await running.wait(who, made, lambda found: found["status"] in END, timeout_s=MIGRATION_S)
        said = [event["message"] for task in ended["tasks"] for event in task["events"]]
        assert ended["status"] == "COMPLETED", said
        assert (ended["origin"]["connection_info"], ended["destination"]["connection_info"]) == ({}, {})
        assert any("does not keep its MAC address" in one for one in said), said
        assert guests.status(guests.local) == "ACTIVE"
        servers = {one["name"]: one for one in listed(mine.own, "compute", "/servers/detail", "servers")}
        ((place,),) = servers["copy"]["addresses"].values()
        assert await asyncio.to_thread(console_says, mine, servers["copy"]["id"], place["addr"])
        (volume,) = volumes_in_order(mine, servers["copy"]["id"])
        guests.local.holds(0, file_of(mine, volume))
        await asyncio.to_thread(guests.remove_copy, servers["copy"]["id"])
        assert guests.leftovers(tmp_path / "staging") == []


async def inspected(running: KeystoneMesh, who: Account, instance: str) -> dict[str, Any]:
    """An inspection of the caller's own project, once it has ended."""
    with running.client(who) as client:
        asked = {"origin": {"type": "openstack", "connection_info": {}}, "instance": instance}
        answer = client.post("/inspections", json={"inspection": asked})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["inspection"]
        deadline = time.monotonic() + MIGRATION_S
        while found["status"] == "RUNNING":
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.5)
            found = client.get(f"/inspections/{found['id']}").json()["inspection"]
    return found


async def test_a_cancelled_migration_leaves_nothing_at_its_origin(
    guests: Guests, other: Project, tmp_path: Path
) -> None:
    """While both kinds of snapshots are read. A server that was stopped already runs again."""
    async with meshed(tmp_path, guests) as mesh:
        migration_id = await mesh.migrate(request(guests, to_project(other)))
        deadline = time.monotonic() + MIGRATION_S
        migration = await mesh.get(migration_id)
        while not all(reading(migration, guest) for guest in guests.all):
            assert (migration.status, time.monotonic() < deadline) == ("RUNNING", True), summary(migration)
            await asyncio.sleep(0.1)
            migration = await mesh.get(migration_id)
        assert guests.leftovers(tmp_path / "staging"), "copies and an image are being read"
        await cancel(mesh, migration_id)
        migration = await mesh.wait(migration_id, timeout_s=MIGRATION_S)
        assert migration.status == "CANCELED", summary(migration)
        assert list(migration.residue) == [], summary(migration)
    assert guests.leftovers(tmp_path / "staging") == []
    assert other.leftovers() == []
    assert [guests.status(guest) for guest in guests.all] == ["ACTIVE", "ACTIVE"]


async def test_a_migration_that_fails_at_its_end_starts_the_origin_again(
    guests: Guests, other: Project, tmp_path: Path
) -> None:
    """Somebody has the server's MAC address in the other network, and another one will not do."""
    networks = listed(other.own, "network", "/networks", "networks")
    network = next(one["id"] for one in networks if one["name"] == NETWORK)
    body = {"port": {"network_id": network, "mac_address": guests.local.mac, "name": "somebody's"}}
    port = ask(other.own, "network", "POST", "/ports", body)["port"]
    try:
        async with meshed(tmp_path, guests) as mesh:
            asked = request(guests, to_project(other), "local")
            migration = await mesh.wait(await mesh.migrate(asked), timeout_s=MIGRATION_S)
        assert migration.status == "ERROR", summary(migration)
        ends = ends_of(migration)
        assert ends["local", "FINALIZE_INSTANCE_DEPLOYMENT"] == "ERROR", summary(migration)
        assert ends["local", "RESTORE_ORIGIN_POWER"] == "COMPLETED", summary(migration)
        assert any("mac address" in task.exception_details for task in migration.tasks), summary(migration)
        assert list(migration.residue) == [], summary(migration)
    finally:
        ask(other.own, "network", "DELETE", f"/ports/{port['id']}")
    assert guests.leftovers(tmp_path / "staging") == []
    assert other.leftovers() == []
    await asyncio.to_thread(guests.run)
    assert guests.status(guests.local) == "ACTIVE"


async def test_running_servers_move_to_another_project(guests: Guests, other: Project, tmp_path: Path) -> None:
    """One that boots from a volume and has two, one with a local root disk; both write while they are read."""
    async with meshed(tmp_path, guests) as mesh:
        migration_id = await mesh.migrate(request(guests, to_project(other, keep_ips=True)))
        migration = await write_while_frozen(mesh, migration_id, guests, 0xA1)
    assert migration.status == "COMPLETED", summary(migration)
    print(summary(migration))
    assert_small_second_pass(migration, guests.all)
    assert guests.leftovers(tmp_path / "staging") == []
    assert [guests.status(guest) for guest in guests.all] == ["SHUTOFF", "SHUTOFF"]
    servers = {one["name"]: one for one in listed(other.own, "compute", "/servers/detail", "servers")}
    assert sorted(servers) == ["local", "pair"]
    for guest in guests.all:
        server = servers[guest.name]
        assert server["status"] == "ACTIVE"
        ((network, (place,)),) = server["addresses"].items()
        assert (network, place["OS-EXT-IPS-MAC:mac_addr"], place["addr"]) == (NETWORK, guest.mac, guest.address)
        assert await asyncio.to_thread(console_says, other, server["id"], guest.address)
        for number, volume in enumerate(volumes_in_order(other, server["id"])):
            guest.holds(number, file_of(other, volume))
    left = other.leftovers()
    assert sorted(one.partition(" ")[0] for one in left) == ["port"] * 2 + ["server"] * 2 + ["volume"] * 3, left
    other.clear()
    assert other.leftovers() == []


def volumes_in_order(project: Project, server_id: str) -> list[str]:
    """Ids of a server's volumes, by device."""
    volumes = listed(project.own, "block_storage", "/volumes/detail", "volumes")
    held = {
        attached["device"]: volume["id"]
        for volume in volumes
        for attached in volume["attachments"]
        if attached["server_id"] == server_id
    }
    return [held[device] for device in sorted(held)]


def file_of(project: Project, volume_id: str) -> Path:
    """A raw volume's, on the share."""
    (found,) = project.mount_dir.glob(f"*/volume-{volume_id}")
    return found


@pytest.fixture
def libvirt_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cor-o-"))
    try:
        yield folder
    finally:
        guest_domain.stop_site(folder)
        shutil.rmtree(folder, ignore_errors=True)


async def test_running_servers_move_to_libvirt(guests: Guests, tmp_path: Path, libvirt_folder: Path) -> None:
    uri = await asyncio.to_thread(guest_domain.start_site, libvirt_folder)
    info = guest_domain.connection_info(uri, libvirt_folder)
    destination = endpoint("libvirt", info, {"network_map": {NETWORK: "user"}, "domain_type": "qemu"})
    async with meshed(tmp_path, guests) as mesh:
        migration_id = await mesh.migrate(request(guests, destination))
        migration = await write_while_frozen(mesh, migration_id, guests, 0xB2)
    assert migration.status == "COMPLETED", summary(migration)
    print(summary(migration))
    assert_small_second_pass(migration, guests.all)
    assert guests.leftovers(tmp_path / "staging") == []
    assert [guests.status(guest) for guest in guests.all] == ["SHUTOFF", "SHUTOFF"]
    assert guest_domain.domain_states(uri) == {"pair": True, "local": True}
    for index, guest in enumerate(guests.all):
        assert guest.mac in guest_domain.domain_xml(uri, guest.name)
        await asyncio.to_thread(says_up, libvirt_folder / "console" / f"{guest.name}-serial0.log", len(guest.truth))
        for number in range(len(guest.truth)):
            guest.holds(number, libvirt_folder / "pool" / f"coriolis-{migration_id}-{index}-disk-{number}")


def says_up(log: Path, disks: int) -> None:
    """Wait until the tiny guest says that it has an address and that many disks."""
    deadline = time.monotonic() + BOOT_S
    while True:
        said = guest_domain.console_text(log)
        up = [line for line in said.splitlines() if line.startswith("OSL-GUEST-UP ip=10.0.2.")]
        if up and up[-1].count("vd") == disks:
            return
        assert time.monotonic() < deadline, said[-2000:]
        time.sleep(0.5)
