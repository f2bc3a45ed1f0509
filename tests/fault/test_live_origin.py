"""A running machine whose source task is killed in its live pass: the successor goes on with the same snapshot."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.contract.site import guest_write
from tests.fault.checkers import site as evidence
from tests.fault.mesh import Mesh, endpoint, summary
from tests.fault.workload import MIB, Site, clear, until_moving
from tests.lab import guest_domain as lab

RUNS = max(2, int(os.environ.get("CORIOLIS_FAULT_RUNS", "3")) // 3)
SEED = int(os.environ.get("CORIOLIS_FAULT_SEED", "1"))
SIZE = 192 * MIB
READ_LIMIT = 48 * MIB

pytestmark = [pytest.mark.fault, pytest.mark.lab, pytest.mark.timeout(120 + 90 * RUNS)]

DOMAIN_XML = """
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>
  </devices>
</domain>"""


def build_disk(folder: Path, name: str, seed: int) -> Path:
    raw, disk = folder / f"{name}.raw", folder / f"{name}.qcow2"
    rng = np.random.default_rng(seed)
    with raw.open("wb") as file:
        file.truncate(SIZE)
        for cell in range(0, SIZE // MIB, 4):
            file.seek(cell * MIB)
            file.write(rng.bytes(3 * MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)], check=True)
    raw.unlink()
    return disk


def run_domain(site: Site, name: str, disk: Path) -> None:
    import libvirt

    with libvirt.open(site.uri) as connection:
        connection.defineXML(DOMAIN_XML.format(name=name, disk=disk)).create()


def write_in_guest(site: Site, name: str, rng: random.Random) -> None:
    """Some writes as the guest would make them, while a pass is running."""
    import libvirt

    with libvirt.open(site.uri) as connection:
        domain = connection.lookupByName(name)
        for _ in range(5):
            guest_write(domain, 0, rng.randrange(SIZE // 65536) * 65536, 65536, rng.randrange(1, 256))


def traces(site: Site, name: str) -> list[str]:
    """What a pass could leave at the origin: checkpoints, a backup job."""
    import libvirt

    with libvirt.open(site.uri) as connection:
        domain = connection.lookupByName(name)
        found = [checkpoint.getName() for checkpoint in domain.listAllCheckpoints()]
        if domain.isActive() and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            found.append("backup job")
    return found


def content(disk: Path, raw: Path) -> str:
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)], check=True)
    return evidence.sha256(raw, SIZE)


async def test_source_tasks_of_a_running_machine_are_killed(tmp_path: Path) -> None:
    origin, target = Site(Path(tempfile.mkdtemp(prefix="cor-o-"))), Site(Path(tempfile.mkdtemp(prefix="cor-t-")))
    async with origin, target, Mesh(tmp_path / "mesh", read_limit=READ_LIMIT) as mesh:
        for number in range(RUNS):
            rng = random.Random(f"live-{SEED}-{number}")
            name = f"vm-live-{number}"
            disk = await asyncio.to_thread(build_disk, origin.pool, name, number)
            run_domain(origin, name, disk)
            migration_id = await mesh.migrate(live_request(origin, target, name))
            await until_moving(mesh, migration_id, rng.uniform(0.05, 0.9))
            write_in_guest(origin, name, rng)
            children = mesh.agents["site-a"].children()
            if children:
                os.kill(rng.choice(children), 9)
            migration = await mesh.wait(migration_id, timeout_s=180)
            assert migration.status == "COMPLETED", summary(migration)
            volume = target.pool / f"coriolis-{migration.id}-0-disk-0"
            want = await asyncio.to_thread(content, disk, tmp_path / "want.raw")
            assert evidence.sha256(volume, SIZE) == want, f"I1\n{summary(migration)}"
            assert not traces(origin, name), f"I4\n{summary(migration)}"
            last = max(migration.disks, key=lambda each: each.pass_number)
            assert last.pass_number == 2
            assert last.sent_bytes <= 16 * MIB, "the last pass sends what changed, not the disk"
            clear(target)
            clear(origin)


def live_request(origin: Site, target: Site, name: str) -> job_pb2.CreateMigrationRequest:
    return job_pb2.CreateMigrationRequest(
        origin=endpoint("libvirt", lab.connection_info(origin.uri, origin.folder), {"shutdown_grace_s": 1}),
        destination=endpoint(
            "libvirt",
            lab.connection_info(target.uri, target.folder),
            {"network_map": {"user": "none"}, "domain_type": "qemu", "machine": "pc"},
        ),
        instances=[name],
        skip_os_morphing=True,
        replication_count=2,
    )
