"""A cloud that refuses a machine's MAC address: the guest is converted for the one that its port got."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openstack")
from coriolis.providers.openstack.rest import ask, listed
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.contract.openstack_destination import FLAVOR, NETWORK, Project
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.guest_with_macs import GUEST, macs_inside, put_in
from tests.integration.openstack_project import Trial
from tests.lab.phony_disk import ROOT_AT
from tests.lab.phony_distros import MACS

SHARED = "private"
"""Somebody else's: a project without the role advsvc may not state a MAC in it (Neutron's create_port:mac_address)."""
pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
    pytest.mark.timeout(900),
]


async def test_macs_are_known_before_the_machine(project: Project, tmp_path: Path) -> None:
    trial = Trial(project, tmp_path, network_map={"lan": SHARED})
    async with trial.connected() as connection:
        macs = await connection.instances.reserve_nics(trial.request())
        assert macs != (trial.spec.devices.nics[0].mac_address,)
        assert await connection.instances.reserve_nics(trial.request()) == macs
        assert sum("does not keep its MAC address" in event for event in trial.events) == 1
        (found,) = await connection.instances.find_tagged(trial.job)
        assert (found.kind, found.id) == ("instance", trial.instance_id)
        await connection.instances.create_instance(trial.request(await trial.volumes(connection)))
        ports = listed(project.own, "network", "/ports", "ports")
        assert [one["mac_address"] for one in ports if one["name"].startswith("coriolis-")] == [*macs]
        await trial.clean(connection)
    assert project.leftovers() == []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_converted_guest_knows_its_new_mac(project: Project, tmp_path: Path, fails: bool) -> None:
    """``fails``: the conversion does, and what was reserved for the machine goes again."""
    origin = tmp_path / "origin"
    origin.mkdir()
    await put_in(origin, ("one", "two"))
    if fails:
        with (origin / "disk.raw").open("r+b") as disk:
            disk.seek(ROOT_AT)
            disk.write(bytes(1 << 20))
    target = {
        "flavor_name": FLAVOR,
        "network_map": {"one": SHARED, "two": NETWORK},
        "storage_mappings": {"default": "nfs"},
        "start_instance": False,
    }
    request = job_pb2.CreateMigrationRequest(
        origin=endpoint("image", {"path": str(origin)}),
        destination=endpoint("openstack", project.connection_info, target),
        instances=[GUEST],
        replication_count=1,
    )
    settings = {"cinder_drivers": ["nfs"], "cinder_mount_dir": str(project.mount_dir)}
    async with Mesh(tmp_path / "mesh", agent_settings=dict.fromkeys(("site-a", "site-b"), settings)) as mesh:
        migration = await mesh.wait(await mesh.migrate(request), timeout_s=500)
    said = [event.message for task in migration.tasks if task.task_type == "OS_MORPHING" for event in task.events]
    assert any("does not keep its MAC address" in one for one in said), summary(migration)
    if fails:
        assert (migration.status, list(migration.residue)) == ("ERROR", []), summary(migration)
        assert project.leftovers() == []
        return
    assert migration.status == "COMPLETED", summary(migration)
    ports = listed(project.own, "network", "/ports", "ports")
    macs = {one["name"][-1]: one["mac_address"] for one in ports if one["name"].startswith("coriolis-")}
    assert macs["0"] not in MACS
    assert macs["1"] == MACS[1]
    (volume,) = listed(project.own, "block_storage", "/volumes", "volumes")
    (file,) = project.mount_dir.glob(f"*/volume-{volume['id']}")
    assert await macs_inside(file) == [macs["0"], macs["1"]]
    for port in ports:
        if port["name"].startswith("coriolis-"):
            ask(project.own, "network", "DELETE", f"/ports/{port['id']}")
    project.clear()
    assert project.leftovers() == []
