"""Images to a real OpenStack through the whole mesh, by both data paths; the guest answers from inside Nova."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("openstack")
from coriolis.providers.openstack.rest import listed
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.contract.openstack_destination import FLAVOR, NETWORK, Project
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.test_openstack_destination import ROOT, console_says

MAC = "52:54:00:77:00:01"
DESCRIPTION = f"""name = "tiny"
num_cpu = 1
memory_mb = 128
[[disks]]
file = "tiny.raw"
format = "raw"
[[nics]]
network_name = "VM Network"
mac_address = "{MAC}"
"""
pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
]


@pytest.mark.parametrize("way", ["attach", "upload"])
async def test_a_guest_arrives_and_boots(project: Project, tmp_path: Path, way: str) -> None:
    origin, staging = tmp_path / "origin", tmp_path / "staging"
    for folder in (origin, staging):
        folder.mkdir()
    maker = [str(ROOT / "tests/lab/make_tiny_guest"), str(tmp_path / "tiny.qcow2"), str(origin / "tiny.raw")]
    await asyncio.to_thread(subprocess.run, maker, check=True, timeout=120, cwd=ROOT, capture_output=True)
    (origin / "tiny.toml").write_text(DESCRIPTION)
    target = {"flavor_name": FLAVOR, "network_map": {"VM Network": NETWORK}, "storage_mappings": {"default": "nfs"}}
    request = job_pb2.CreateMigrationRequest(
        origin=endpoint("image", {"path": str(origin)}),
        destination=endpoint("openstack", project.connection_info, target),
        instances=["tiny"],
        skip_os_morphing=True,
        replication_count=1,
    )
    settings = {"staging_dir": str(staging)}
    if way == "attach":
        settings |= {"cinder_drivers": ["nfs"], "cinder_mount_dir": str(project.mount_dir)}
    try:
        async with Mesh(tmp_path / "mesh", agent_settings=dict.fromkeys(("site-a", "site-b"), settings)) as mesh:
            migration = await mesh.wait(await mesh.migrate(request), timeout_s=180)
            assert migration.status == "COMPLETED", summary(migration)
        (server,) = listed(project.own, "compute", "/servers/detail", "servers")
        assert (server["name"], server["status"]) == ("tiny", "ACTIVE")
        ((place,),) = server["addresses"].values()
        assert place["OS-EXT-IPS-MAC:mac_addr"] == MAC
        assert await asyncio.to_thread(console_says, project, server["id"], place["addr"])
        (volume,) = listed(project.own, "block_storage", "/volumes/detail", "volumes")
        assert (volume["volume_type"], volume["size"], volume["status"]) == ("nfs", 1, "in-use")
        assert listed(project.own, "image", "/images", "images", {"visibility": "private"}) == []
        assert not [one for one in staging.rglob("*") if one.is_file()]
    finally:
        project.clear()
