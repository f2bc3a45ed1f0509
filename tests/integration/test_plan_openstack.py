"""``coriolis plan`` from one project of a real OpenStack to another: what is missing there, and what would be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("openstack")
from coriolis.providers.openstack.rest import ask, listed
from tests.contract.openstack_destination import FLAVOR, Project
from tests.integration.test_up import ROOT, free_port, running_up
from tests.lab.openstack_site import Cloud

pytestmark = [pytest.mark.lab, pytest.mark.openstack]
WAIT_S = 180


@pytest.fixture
def project(whole_cloud: Cloud) -> Iterator[Project]:
    found = Project(whole_cloud)
    yield found
    found.clear()


def server_on_a_network_of_its_own(project: Project, name: str) -> None:
    """Boots from an empty volume: nothing has to run in it."""

    def make(service: str, path: str, kind: str, **body: Any) -> dict[str, Any]:
        return dict(ask(project.own, service, "POST", path, {kind: body})[kind])

    network = make("network", "/networks", "network", name="backstage")
    make("network", "/subnets", "subnet", name="rows", network_id=network["id"], cidr="10.91.0.0/24", ip_version=4)
    group = make("network", "/security-groups", "security_group", name="stage-door")
    make("network", "/security-group-rules", "security_group_rule", security_group_id=group["id"],
         direction="ingress", protocol="tcp", port_range_min=22, port_range_max=22)  # fmt: skip
    volume = make("block_storage", "/volumes", "volume", name="root", size=1, volume_type="nfs")
    path = f"/volumes/{volume['id']}"
    _until(lambda: ask(project.own, "block_storage", "GET", path)["volume"]["status"] == "available")
    ask(project.own, "block_storage", "POST", f"{path}/action", {"os-set_bootable": {"bootable": True}})
    flavor = next(one["id"] for one in listed(project.own, "compute", "/flavors", "flavors") if one["name"] == FLAVOR)
    disk = {"boot_index": 0, "uuid": volume["id"], "source_type": "volume", "destination_type": "volume"}
    make("compute", "/servers", "server", name=name, flavorRef=flavor, networks=[{"uuid": network["id"]}],
         security_groups=[{"name": "stage-door"}], block_device_mapping_v2=[disk])  # fmt: skip
    _until(
        lambda: [one["status"] for one in listed(project.own, "compute", "/servers/detail", "servers")] == ["ACTIVE"]
    )


def _until(reached: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_plan_between_two_projects(whole_cloud: Cloud, project: Project, tmp_path: Path) -> None:
    server_on_a_network_of_its_own(project, "actor")
    other = whole_cloud.account("member")
    clouds = {"old": project.account.clouds_yaml, "new": other.clouds_yaml}
    (tmp_path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": clouds}))
    with running_up(tmp_path / "mesh", free_port()):
        script = f'. {tmp_path}/mesh/admin-openrc; exec {sys.executable} -m coriolis.cli.main plan "$@"'

        def plan(*options: str, code: int) -> str:
            command = ["bash", "-c", script, "plan", "--origin-cloud", "old", "--destination-cloud", "new", *options]
            environ = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout

        lacking = plan("--instance", "actor", code=1)
        assert "Missing: network 'backstage'" in lacking
        assert "Missing: security group 'stage-door'" in lacking
        assert "Or let create_missing_networks make it" in lacking
        document = json.loads(plan("--instance", "actor", "--create-missing-networks", "-o", "json", code=0))
        made = document["plan"]
        assert [one["name"] for one in made["networks"]] == ["backstage"]
        assert [one["cidr"] for one in made["networks"][0]["subnets"]] == ["10.91.0.0/24"]
        assert [one["name"] for one in made["security_groups"]] == ["stage-door"]
        assert made["target_environment"] == {"create_missing_networks": True, "storage_map": {"nfs": "nfs"}}
        assert document["destination"]["detail"] == "full"
        mapped = plan("--instance", "actor", "--network", "backstage=private", "--instance", "nobody", code=1)
        assert "machine 'nobody'" in mapped
        assert "private" in mapped
    assert listed(project.own, "network", "/networks", "networks", {"name": "backstage"})
