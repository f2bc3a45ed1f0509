"""Machines of a simulated vSphere move while processes die with kill -9: bytes, one start, nothing left at the origin.

vcsim behind the lab's proxy, which freezes snapshots and tracks changes. CORIOLIS_FAULT_RUNS sets the kills: a fifth of
it of each kind, at least one.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.checkers import site as evidence
from tests.fault.checkers.history import History
from tests.fault.checkers.progress import ProgressWatch
from tests.fault.mesh import Mesh, endpoint, summary
from tests.fault.test_kills import Fault, kill_leader, kill_source_child, restart
from tests.fault.workload import MIB, READ_LIMIT, Site, clear, new_site, until_moving
from tests.lab import guest_domain as lab
from tests.lab.vsphere_site import LabDisk, vsphere_site
from tests.lab.vsphere_site import Site as Vsphere

RUNS = max(1, int(os.environ.get("CORIOLIS_FAULT_RUNS", "3")) // 5)
SEED = int(os.environ.get("CORIOLIS_FAULT_SEED", "1"))
SIZES = (192 * MIB, 64 * MIB)

pytestmark = [
    pytest.mark.fault,
    pytest.mark.lab,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120 + 120 * RUNS),
]


@dataclass
class Lab:
    """What ``tests.fault.test_kills`` strikes at, and a vSphere."""

    mesh: Mesh
    site: Site
    history: History
    folder: Path
    vsphere: Vsphere


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab_with_vsphere(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder = tmp_path_factory.mktemp("vsphere-kills")
    with vsphere_site() as vsphere:
        async with (
            new_site() as site,
            Mesh(folder / "mesh", etcd_nodes=1, coordinators=3, read_limit=READ_LIMIT) as mesh,
            History(mesh.etcd.endpoints) as history,
        ):
            yield Lab(mesh, site, history, folder, vsphere)


async def kill_source_agent(lab: Lab, rng: random.Random, migration_id: str) -> None:
    """The whole agent of the origin; its tasks die with it. It comes back after a moment."""
    await restart(lab.mesh.agents["site-a"], rng.uniform(0, 2))


def add_machine(vsphere: Vsphere, name: str, rng: random.Random) -> None:
    disks = []
    for size in SIZES:
        content = bytearray(size)
        for at in range(0, size, 2 * MIB):
            content[at : at + MIB] = rng.randbytes(MIB)
        disks.append(LabDisk(content=bytes(content)))
    vsphere.add_machine(name, disks, running=True)


def remove_machine(vsphere: Vsphere, name: str) -> None:
    """A hundred of them would fill the disk, and then everything fails that writes."""
    vsphere.machines.wait(vsphere._vm(name).Destroy_Task())
    vsphere.machines.forget(vsphere.id(name))


def request(lab_: Lab, name: str, transport: str) -> job_pb2.CreateMigrationRequest:
    return job_pb2.CreateMigrationRequest(
        origin=endpoint("vmware_vsphere", lab_.vsphere.connection_info(), {"disk_transport": transport}),
        destination=endpoint(
            "libvirt",
            lab.connection_info(lab_.site.uri, lab_.site.folder),
            {"network_map": {"VM Network": "none"}, "domain_type": "qemu", "machine": "pc"},
        ),
        instances=[name],
        skip_os_morphing=True,
        replication_count=2,
        shutdown_instances=True,
    )


@pytest.mark.parametrize("transport", ["datastore", "export"])
@pytest.mark.parametrize("fault", [kill_source_child, kill_source_agent, kill_leader])
async def test_kills_with_a_vsphere_origin(lab_with_vsphere: Lab, fault: Fault, transport: str) -> None:
    here, kind = lab_with_vsphere, fault.__name__.replace("_", "-")
    here.vsphere.vcenter.folder_locks = "none"
    for number in range(RUNS):
        rng = random.Random(f"{kind}-{transport}-{SEED * 1000 + number}")
        name = f"vm-{kind}-{transport}-{number}"
        add_machine(here.vsphere, name, rng)
        migration_id = await here.mesh.migrate(request(here, name, transport))
        async with ProgressWatch(here.mesh, migration_id) as progress:
            await strike(here, name, fault, rng, migration_id)
            migration = await here.mesh.wait(migration_id, timeout_s=180)
        try:
            check_outcome(here, name, migration)
            here.history.check()
            progress.check()
        except AssertionError as broken:
            raise AssertionError(f"run {number}, seed {SEED}: {broken}\n{summary(migration)}") from broken
        clear(here.site)
        remove_machine(here.vsphere, name)


async def strike(here: Lab, name: str, fault: Fault, rng: random.Random, migration_id: str) -> None:
    """Half of the time in the middle of the data, else anywhere from the first snapshot on; the guest writes too."""
    if rng.random() < 0.5:
        await until_moving(here.mesh, migration_id, rng.uniform(0.02, 0.98))
    else:
        await asyncio.sleep(rng.uniform(0, 8))
    if here.vsphere.is_running(name):
        here.vsphere.guest_write(name, 0, rng.randrange(0, SIZES[0] - MIB, 512), rng.randbytes(50_000))
    await fault(here, rng, migration_id)


def check_outcome(here: Lab, name: str, migration: job_pb2.Migration) -> None:
    """Success, the guest's last bytes, one start, no orphans at either end, an origin that is off and whole."""
    assert migration.status == "COMPLETED", summary(migration)
    volumes = {f"coriolis-{migration.id}-0-disk-{number}" for number in range(len(SIZES))}
    for number, volume in enumerate(sorted(volumes)):
        got = (here.site.pool / volume).read_bytes()
        assert got == here.vsphere.guest_content(name, number), f"I1: {volume}"
    counts = evidence.starts(here.site.folder)
    assert counts.get(name, 0) == 1, f"I2: {name} was started {counts.get(name, 0)} times"
    left = evidence.leftovers(here.site.uri, here.site.pool, {name}, volumes)
    assert not left, f"I4: left over: {left}"
    assert not migration.residue
    assert here.vsphere.snapshots(name) == [], "I4: snapshots left at the origin"
    extra = here.vsphere._vm(name).config.extraConfig
    assert [one.key for one in extra if one.key.startswith("coriolis.") and one.value] == [], "I4: change ids left"
    assert not here.vsphere.is_running(name)
