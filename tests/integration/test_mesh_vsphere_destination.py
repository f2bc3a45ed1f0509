"""Images to a simulated vCenter (govmomi's vcsim) through the whole mesh: machines start, templates do not."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.vsphere_import import MIB, datastore_directory
from tests.lab.boot import LOGIN, Console, Machine
from tests.lab.guest_domain import LAB
from tests.lab.vcsim import vcsim

BOOT_TIMEOUT_S = 300
SIZE = 20 * MIB + 512
DESCRIPTION = """name = "{name}"
num_cpu = 1
memory_mb = 512
is_template = {template}
[[disks]]
file = "{name}.img"
format = "raw"
[[nics]]
network_name = "VM Network"
mac_address = "52:54:00:00:00:01"
"""


async def test_a_machine_and_a_template_arrive_and_leave_no_staged_disk(tmp_path: Path) -> None:
    origin, truth = tmp_path / "origin", {}
    origin.mkdir()
    for name, template in (("web", "false"), ("golden", "true")):
        truth[name] = random.Random(name).randbytes(9 * MIB) + bytes(SIZE - 9 * MIB)
        (origin / f"{name}.img").write_bytes(truth[name])
        (origin / f"{name}.toml").write_text(DESCRIPTION.format(name=name, template=template))
    with vcsim() as simulator:
        info = simulator.connection_info()
        target = {"cluster": "DC0_C0", "datastore": "LocalDS_0", "network_map": {"VM Network": "DC0_DVPG0"}}
        request = job_pb2.CreateMigrationRequest(
            origin=endpoint("image", {"path": str(origin)}),
            destination=endpoint("vmware_vsphere", info, target),
            instances=list(truth),
            skip_os_morphing=True,
            replication_count=1,
        )
        staging = tmp_path / "staging"
        staging.mkdir()
        settings = {site: {"staging_dir": str(staging)} for site in ("site-a", "site-b")}
        async with Mesh(tmp_path / "mesh", agent_settings=settings) as mesh:
            migration = await mesh.wait(await mesh.migrate(request), timeout_s=120)
            assert migration.status == "COMPLETED", summary(migration)
        home = await datastore_directory(info)
        for name, content in truth.items():
            arrived = (home / name / f"{name}-flat.vmdk").read_bytes()
            assert arrived == content.ljust(len(arrived), b"\0")
        async with VsphereProvider().connect(info) as connection:
            web, golden = [await connection.inventory.get_instance(name) for name in truth]
        assert (web.is_template, web.power_state) == (False, "running")
        assert (golden.is_template, golden.power_state) == (True, "stopped")
        assert web.devices.nics[0].network_name == "DC0_DVPG0"
        assert not [one for one in staging.rglob("*") if one.is_file()], "staged disks and their records are gone"
        events = [event.message for task in migration.tasks for event in task.events]
        assert any("as a template, not started" in one for one in events), summary(migration)


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.timeout(900)
async def test_a_debian_guest_converted_for_vsphere_boots_on_its_hardware(tmp_path: Path) -> None:
    """What arrived in the datastore is booted by QEMU on pvscsi and vmxnet3: the simulator runs nothing."""
    origin, staging = tmp_path / "origin", tmp_path / "staging"
    origin.mkdir()
    staging.mkdir()
    cached = await asyncio.to_thread(
        subprocess.run, [str(LAB / "guest_cache")], check=True, capture_output=True, text=True
    )
    shutil.copyfile(cached.stdout.strip(), origin / "debian.img")
    (origin / "debian.toml").write_text(
        DESCRIPTION.format(name="debian", template="false").replace('format = "raw"', 'format = "qcow2"')
    )
    with vcsim() as simulator:
        info = simulator.connection_info()
        target = {"cluster": "DC0_C0", "datastore": "LocalDS_0", "network_map": {"VM Network": "VM Network"}}
        request = job_pb2.CreateMigrationRequest(
            origin=endpoint("image", {"path": str(origin)}),
            destination=endpoint("vmware_vsphere", info, target),
            instances=["debian"],
            replication_count=1,
        )
        settings = {site: {"staging_dir": str(staging)} for site in ("site-a", "site-b")}
        async with Mesh(tmp_path / "mesh", agent_settings=settings) as mesh:
            migration = await mesh.wait(await mesh.migrate(request), timeout_s=600)
        assert migration.status == "COMPLETED", summary(migration)
        print(summary(migration))
        home = await datastore_directory(info)
        arrived = tmp_path / "arrived.img"
        shutil.copyfile(home / "debian" / "debian-flat.vmdk", arrived)
    console = Console(Machine(arrived, "raw", profile="vmware"))
    await asyncio.to_thread(_boots, console)


def _boots(console: Console) -> None:
    with console:
        console.wait_for(LOGIN, BOOT_TIMEOUT_S)
