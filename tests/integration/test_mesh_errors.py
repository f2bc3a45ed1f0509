"""What fails on the way: a sentence that says which endpoint and why, nothing left behind, neighbours undisturbed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from coriolis.errors import Conflict
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.mesh_calls import MIB, Sites, agent_files, cancel, delete, until_running
from tests.integration.test_mesh_image import describe, sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ_LIMIT = 16 * MIB
SLOW_DISK = 48 * MIB
"""A pass over it takes three seconds."""
CANCEL_S = 60.0
HEAL_S = 120.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path_factory.mktemp("mesh"), read_limit=READ_LIMIT) as running:
        yield running


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


@pytest.fixture
def slow(tmp_path: Path) -> Sites:
    return Sites(tmp_path, SLOW_DISK)


def failures(migration: job_pb2.Migration) -> str:
    return " ".join(task.exception_details for task in migration.tasks)


async def failed(mesh: Mesh, request: job_pb2.CreateMigrationRequest) -> job_pb2.Migration:
    migration = await mesh.wait(await mesh.migrate(request), timeout_s=90)
    assert migration.status == "ERROR", summary(migration)
    assert not migration.residue, summary(migration)
    return migration


# -- endpoints and instances --------------------------------------------------------------------------------------


async def test_an_unreachable_libvirt_is_named(mesh: Mesh, sites: Sites, tmp_path: Path) -> None:
    uri = f"qemu:///system?socket={tmp_path}/nobody-listens"
    origin = endpoint("libvirt", {"uri": uri})
    migration = await failed(mesh, sites.request(origin=origin))
    assert "nobody-listens" in failures(migration)
    sites.assert_as_before()


async def test_a_directory_that_is_not_there_is_named(mesh: Mesh, sites: Sites) -> None:
    for field in ("origin", "destination"):
        gone = endpoint("image", {"path": f"/nonexistent/{field}-images"})
        migration = await failed(mesh, sites.request(**{field: gone}))
        assert f"/nonexistent/{field}-images" in failures(migration)
    sites.assert_as_before()


async def test_an_image_that_reads_another_file_is_refused(mesh: Mesh, sites: Sites, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"canary" * 1000 + bytes(MIB))
    evil = sites.origin / "evil.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(evil)]
    await asyncio.to_thread(subprocess.run, make, check=True)
    describe(sites.origin, "evil", [("evil.qcow2", "qcow2")])
    migration = await failed(mesh, sites.request(instances=["evil"]))
    assert "backing file" in failures(migration)
    assert Sites.listing(sites.destination) == {}
    assert not agent_files(mesh, migration.id)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_destination_that_fills_up_on_the_way_is_told_with_sizes(mesh: Mesh, slow: Sites, tiny: Path) -> None:
    environment = {"network_map": {"VM Network": "x"}, "allow_overcommit": True}
    began = time.monotonic()
    migration = await failed(mesh, slow.request(destination=endpoint("image", {"path": str(tiny)}, environment)))
    assert time.monotonic() - began < 30
    assert "bytes left" in failures(migration), summary(migration)
    assert Sites.listing(tiny) == {}
    slow.assert_as_before()


# -- cancel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["at once", "GET_INSTANCE_INFO", "REPLICATE_DISKS", "second pass"])
async def test_a_cancelled_migration_leaves_everything_as_it_was(mesh: Mesh, slow: Sites, phase: str) -> None:
    migration_id = await mesh.migrate(slow.request(replication_count=2))
    if phase == "second pass":
        while True:
            passes = [t.status for t in (await mesh.get(migration_id)).tasks if t.task_type == "REPLICATE_DISKS"]
            if passes[1] == "RUNNING":
                break
            await asyncio.sleep(0.05)
    elif phase != "at once":
        await until_running(mesh, migration_id, phase)
    began = time.monotonic()
    await cancel(mesh, migration_id)
    migration = await mesh.wait(migration_id, timeout_s=CANCEL_S)
    assert migration.status == "CANCELED", summary(migration)
    assert time.monotonic() - began < CANCEL_S
    assert not migration.residue
    slow.assert_as_before()
    assert not agent_files(mesh, migration_id)
    with pytest.raises(Conflict, match="nothing to cancel"):
        await cancel(mesh, migration_id)
    await delete(mesh, migration_id)


# -- clean-up that fails, and the janitor (F5) ---------------------------------------------------------------------


async def test_residue_is_listed_kept_from_deletion_and_removed_after_heal(mesh: Mesh, slow: Sites) -> None:
    migration_id = await mesh.migrate(slow.request())
    await until_running(mesh, migration_id, "REPLICATE_DISKS")
    away = slow.destination.with_name("away")
    slow.destination.rename(away)
    await cancel(mesh, migration_id)
    migration = await mesh.wait(migration_id, timeout_s=CANCEL_S)
    assert migration.status == "ERROR", summary(migration)
    assert any("destination volume" in left for left in migration.residue), summary(migration)
    with pytest.raises(Conflict, match="residue"):
        await delete(mesh, migration_id)
    tasks = [(task.id, task.status) for task in migration.tasks]
    away.rename(slow.destination)
    healed = time.monotonic()
    while migration.residue:
        assert time.monotonic() - healed < HEAL_S, summary(migration)
        await asyncio.sleep(0.5)
        migration = await mesh.get(migration_id)
    assert [(task.id, task.status) for task in migration.tasks] == tasks, "ended tasks never change (I6)"
    assert migration.status == "ERROR"
    slow.assert_as_before()
    listed = await mesh.call("ListMigrations", job_pb2.ListMigrationsRequest(project_id=migration.project_id))
    assert len({each.id for each in listed.migrations}) == len(listed.migrations), "tries are no migrations"
    await delete(mesh, migration_id)


# -- restart ------------------------------------------------------------------------------------------------------


async def test_a_restarted_coordinator_goes_on_with_the_migration(mesh: Mesh, slow: Sites) -> None:
    migration_id = await mesh.migrate(slow.request(replication_count=2))
    await until_running(mesh, migration_id, "REPLICATE_DISKS")
    [coordinator] = mesh.coordinators.values()
    coordinator.kill()
    coordinator.start()
    migration = await mesh.wait(migration_id)
    assert migration.status == "COMPLETED", summary(migration)
    made = slow.destination / "vm.disks" / "disk-0.raw"
    assert sha256(made, slow.size) == sha256(slow.origin / "disk.img")


async def test_a_cancel_while_the_agent_is_away_is_obeyed_when_it_is_back(mesh: Mesh, slow: Sites) -> None:
    """The withdrawal is lost with the session; the agent comes back holding its task."""
    migration_id = await mesh.migrate(slow.request())
    await until_running(mesh, migration_id, "REPLICATE_DISKS")
    [coordinator] = mesh.coordinators.values()
    await cancel(mesh, migration_id)
    coordinator.kill()
    coordinator.start()
    migration = await mesh.wait(migration_id, timeout_s=CANCEL_S)
    assert migration.status == "CANCELED", summary(migration)
    slow.assert_as_before()
