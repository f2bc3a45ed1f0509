"""The README's lines from clouds.yaml to the first migrated VM, as they stand there, against a real OpenStack."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("openstack")
from coriolis.providers.openstack.rest import listed
from tests.contract.openstack_destination import Project
from tests.lab.openstack_site import Cloud

ROOT = Path(__file__).resolve().parents[2]
UP_TIMEOUT_S = 120
MIGRATION_TIMEOUT_S = 400
pytestmark = [pytest.mark.lab, pytest.mark.openstack]


def readme_lines() -> list[str]:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"^## From clouds\.yaml.*?^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, "the README has no such section"
    return found[1].splitlines()


def test_five_lines_from_clouds_yaml_to_a_server(whole_cloud: Cloud, tmp_path: Path) -> None:
    first, *rest = readme_lines()
    assert len(rest) == 4, "five lines are promised"
    project = Project(whole_cloud)
    (tmp_path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"mycloud": project.account.clouds_yaml}}))
    (tmp_path / "vms").mkdir()
    maker = [str(ROOT / "tests/lab/make_tiny_guest"), str(tmp_path / "vms" / "web.qcow2")]
    subprocess.run(maker, check=True, timeout=120, cwd=ROOT, capture_output=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    environ |= {"PATH": path, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(["bash", "-c", f"exec {first}"], cwd=tmp_path, env=environ, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while "Coriolis is up" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        script = "\n".join(["set -e", *rest])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=MIGRATION_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Request written to web.yaml" in done.stdout
        assert project.account.password not in (tmp_path / "web.yaml").read_text(), "clouds.yaml keeps it"
        (server,) = listed(project.own, "compute", "/servers/detail", "servers")
        assert (server["name"], server["status"]) == ("web", "ACTIVE")
        assert list(server["addresses"]) == ["private"]
    finally:
        up.send_signal(signal.SIGINT)
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()
        project.clear()
