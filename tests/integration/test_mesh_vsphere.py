"""Whole meshes with a vSphere origin: vcsim behind the lab's proxy, which adds change tracking and frozen snapshots."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.mesh import Mesh, endpoint, summary
from tests.lab import guest_domain as lab
from tests.lab.vsphere_site import LabDisk, LabNic, Site, vsphere_site

MIB = 1 << 20
SIZE = 96 * MIB
BOOT_TIMEOUT_S = 300
MAC = "00:50:56:11:22:33"


@pytest.fixture(scope="module")
def vsphere() -> Iterator[Site]:
    with vsphere_site() as running:
        yield running


def disk(seed: int, size: int = SIZE) -> bytes:
    """Data in a third of the cells."""
    chance, content = random.Random(seed), bytearray(size)
    for at in range(0, size, 3 * MIB):
        content[at : at + MIB] = chance.randbytes(MIB)
    return bytes(content)


def request(
    site: Site, name: str, folder: Path, environment: dict[str, Any] | None = None, **changes: Any
) -> job_pb2.CreateMigrationRequest:
    """To images in ``folder``, without conversion."""
    return job_pb2.CreateMigrationRequest(
        origin=endpoint("vmware_vsphere", site.connection_info(), environment),
        destination=endpoint("image", {"path": str(folder)}, {"network_map": {"VM Network": "lan"}}),
        instances=[name],
        skip_os_morphing=True,
        **{"replication_count": 1, "shutdown_instances": True, **changes},
    )


def arrived(folder: Path, name: str, number: int) -> bytes:
    return (folder / f"{name}.disks" / f"disk-{number}.raw").read_bytes()


def events(migration: job_pb2.Migration, task_type: str) -> list[str]:
    return [event.message for task in migration.tasks if task.task_type == task_type for event in task.events]


def left_at(site: Site, name: str) -> list[str]:
    """Snapshots of ours, and change ids kept in the machine's configuration."""
    extra = site._vm(name).config.extraConfig
    kept = [one.key for one in extra if one.key.startswith("coriolis.") and one.value]
    return [one for one in site.snapshots(name) if one.startswith("coriolis-")] + kept


async def until(done: Callable[[], bool], timeout_s: float = 120) -> None:
    """Return when it is; looks often, for some states pass quickly."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.02)


async def test_warm_passes_carry_what_the_guest_writes_meanwhile(vsphere: Site, tmp_path: Path) -> None:
    vsphere.vcenter.folder_locks = "none"
    folder = tmp_path / "images"
    folder.mkdir()
    vsphere.add_machine("warm", [disk(1), LabDisk(content=disk(2), bus="nvme")], running=True)
    async with Mesh(tmp_path / "mesh", read_limit=48 * MIB) as mesh:
        migration_id = await mesh.migrate(request(vsphere, "warm", folder, replication_count=3))
        chance = random.Random(3)
        while (migration := await mesh.get(migration_id)).status == "RUNNING":
            if vsphere.is_running("warm"):
                at = chance.randrange(0, SIZE - 4096, 4096)
                vsphere.guest_write("warm", chance.randrange(2), at, chance.randbytes(4096))
            await asyncio.sleep(0.2)
    assert migration.status == "COMPLETED", summary(migration)
    for number in range(2):
        assert arrived(folder, "warm", number) == vsphere.guest_content("warm", number), f"disk {number}"
    passes = {disk.pass_number for disk in migration.disks}
    assert passes == {1, 2, 3}
    first = sum(disk.sent_bytes for disk in migration.disks if disk.pass_number == 1)
    for number in (2, 3):
        assert sum(disk.read_bytes for disk in migration.disks if disk.pass_number == number) < first / 2
    assert not vsphere.is_running("warm"), "stopped for the last pass"
    assert left_at(vsphere, "warm") == []
    said = events(migration, "REPLICATE_DISKS")
    assert any("changed block tracking was turned on" in one for one in said)
    assert any("read by ranges of the datastore" in one for one in said)
    assert any("changed block tracking is off" in one for one in events(migration, "VALIDATE_TRANSFER_SOURCE_INPUTS"))


async def test_export_leases_alone_are_enough(vsphere: Site, tmp_path: Path) -> None:
    vsphere.vcenter.folder_locks = "chain"
    folder = tmp_path / "images"
    folder.mkdir()
    vsphere.add_machine("exported", [disk(4), disk(5), disk(6)], running=True)
    async with Mesh(tmp_path / "mesh") as mesh:
        asked = request(vsphere, "exported", folder, {"disk_transport": "export"}, replication_count=2)
        migration = await mesh.wait(await mesh.migrate(asked))
    assert migration.status == "COMPLETED", summary(migration)
    for number in range(3):
        assert arrived(folder, "exported", number) == disk(4 + number)
    assert left_at(vsphere, "exported") == []


async def test_a_template_arrives_as_a_template(vsphere: Site, tmp_path: Path) -> None:
    vsphere.vcenter.folder_locks = "live"
    folder = tmp_path / "images"
    folder.mkdir()
    vsphere.add_machine("golden image", [disk(9)], template=True)
    async with Mesh(tmp_path / "mesh") as mesh:
        migration = await mesh.wait(await mesh.migrate(request(vsphere, "golden image", folder)))
    assert migration.status == "COMPLETED", summary(migration)
    assert arrived(folder, "golden-image", 0) == disk(9)
    said = events(migration, "VALIDATE_TRANSFER_DESTINATION_INPUTS")
    assert said == ["golden image will be called golden-image at its destination"]
    described = tomllib.loads((folder / "golden-image.toml").read_text())
    assert described["is_template"] is True
    assert any("template" in one for one in events(migration, "FINALIZE_INSTANCE_DEPLOYMENT"))
    assert not list((folder / ".coriolis").glob("*.started")), "templates are not started"
    assert left_at(vsphere, "golden image") == []


async def test_a_machine_that_snapshots_leave_out_is_refused_before_a_byte_moves(vsphere: Site, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    vsphere.add_machine("independent", [MIB, LabDisk(size=MIB, mode="independent_persistent")], running=True)
    async with Mesh(tmp_path / "mesh") as mesh:
        migration = await mesh.wait(await mesh.migrate(request(vsphere, "independent", folder)))
    assert migration.status == "ERROR"
    (failed,) = [task for task in migration.tasks if task.status == "ERROR"]
    assert failed.task_type == "VALIDATE_TRANSFER_SOURCE_INPUTS"
    assert "independent persistent" in failed.exception_details
    assert "set its mode to dependent" in failed.exception_details
    assert vsphere.is_running("independent")
    assert list(folder.glob("*.disks")) == []


async def test_a_disk_that_grows_between_passes_ends_the_job_with_a_reason(vsphere: Site, tmp_path: Path) -> None:
    vsphere.vcenter.folder_locks = "none"
    folder = tmp_path / "images"
    folder.mkdir()
    vsphere.add_machine("grows", [disk(7)], running=True)
    # the first snapshot turns change tracking on, the second is the first pass's, the third the second's
    second_pass = vsphere.faults.hold("CreateSnapshot_Task", skip=2)
    async with Mesh(tmp_path / "mesh") as mesh:
        migration_id = await mesh.migrate(request(vsphere, "grows", folder, replication_count=3))
        await until(second_pass.reached.is_set)
        vsphere.grow("grows", 0, SIZE + MIB)
        second_pass.go_on.set()
        migration = await mesh.wait(migration_id)
    assert migration.status == "ERROR", summary(migration)
    done = [task.task_type for task in migration.tasks if task.status == "COMPLETED"]
    assert done.count("REPLICATE_DISKS") == 1, "it grew between the passes"
    assert any("start a new one" in task.exception_details for task in migration.tasks), summary(migration)
    assert vsphere.is_running("grows"), "the origin runs as before"
    assert left_at(vsphere, "grows") == []


async def test_credentials_are_refused_with_a_reason(vsphere: Site, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    vsphere.add_machine("closed", [MIB])
    asked = request(vsphere, "closed", folder)
    wrong = endpoint("vmware_vsphere", vsphere.connection_info(password="wrong"))
    asked.origin.CopyFrom(wrong)
    async with Mesh(tmp_path / "mesh") as mesh:
        migration = await mesh.wait(await mesh.migrate(asked))
    assert migration.status == "ERROR"
    said = "\n".join(task.exception_details for task in migration.tasks)
    assert "check user name and password" in said
    assert "wrong" not in said.replace("wrong password", "")


@pytest.fixture
def libvirt_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cor-v-"))
    try:
        yield folder
    finally:
        lab.stop_site(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.lab
@pytest.mark.timeout(900)
async def test_a_debian_guest_of_vsphere_boots_on_libvirt(vsphere: Site, tmp_path: Path, libvirt_folder: Path) -> None:
    """VMware drivers only (pvscsi, vmxnet3) at the origin; a second disk is written to while the passes run."""
    vsphere.vcenter.folder_locks = "none"
    uri = await asyncio.to_thread(lab.start_site, libvirt_folder)
    cached = await asyncio.to_thread(
        subprocess.run, [str(lab.LAB / "guest_cache")], check=True, capture_output=True, text=True
    )
    await asyncio.to_thread(
        vsphere.add_machine,
        "Debian 12",
        [Path(cached.stdout.strip()), disk(8)],
        running=True,
        nics_=[LabNic("VM Network", MAC)],
        cpus=2,
        memory_mb=768,
    )
    asked = job_pb2.CreateMigrationRequest(
        origin=endpoint("vmware_vsphere", vsphere.connection_info()),
        destination=endpoint(
            "libvirt",
            lab.connection_info(uri, libvirt_folder),
            {"network_map": {"VM Network": "user"}, "domain_type": "qemu"},
        ),
        instances=["Debian 12"],
        replication_count=2,
        shutdown_instances=True,
    )
    async with Mesh(tmp_path / "mesh") as mesh:
        migration_id = await mesh.migrate(asked)
        await until(lambda: bool(vsphere.snapshots("Debian 12")))
        vsphere.guest_write("Debian 12", 1, 5 * MIB, b"written while the first pass ran" * 64)
        migration = await mesh.wait(migration_id, timeout_s=600)
    assert migration.status == "COMPLETED", summary(migration)
    print(summary(migration))
    xml = lab.domain_xml(uri, "Debian-12")
    assert MAC in xml
    volume = libvirt_folder / "pool" / f"coriolis-{migration_id}-0-disk-1"
    assert volume.read_bytes() == vsphere.guest_content("Debian 12", 1)
    assert left_at(vsphere, "Debian 12") == []
    log = libvirt_folder / "console" / "Debian-12-serial0.log"
    seconds = await asyncio.to_thread(lab.wait_for_login, log, BOOT_TIMEOUT_S)
    print(f"login prompt on virtio after {seconds:.0f} s")
