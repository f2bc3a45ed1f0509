"""PyPI's python-coriolisclient 1.0.0.dev1 (2016), unchanged, in a virtual environment of its own.

Not in ours: its console script is also named ``coriolis``. Its library and its command line both run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.stack import BODY, Stack

CLIENT = "python-coriolisclient==1.0.0.dev1"
ROOT = Path(__file__).resolve().parents[2]
INSTALL_TIMEOUT_S = 300
RUN_TIMEOUT_S = 60

LIFE = """
import json, os, sys
from coriolisclient import client
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

body = json.loads(os.environ["BODY"])["migration"]
names = {name[3:].lower(): value for name, value in os.environ.items() if name.startswith("OS_")}
names.pop("identity_api_version", None)
migrations = client.Client(session=session.Session(auth=v3.Password(**names))).migrations
origin, destination = body["origin"], body["destination"]
made = migrations.create(
    origin["type"], origin["connection_info"], destination["type"], destination["connection_info"],
    destination["target_environment"], body["instances"],
)
assert made.status == "RUNNING", made
assert made.origin.type == "libvirt" and made.origin.connection_info["password"] == "***"
assert made.destination.target_environment["network_map"] == {"VM Network": "default"}
assert [task.task_type for task in made.tasks] == ["GET_INSTANCE_INFO", "REPLICATE_DISKS"]
assert made.tasks[1].progress_updates[0].message == "Disk vda"
assert made.id in [one.id for one in migrations.list()]
shown = migrations.get(made)
assert shown.id == made.id and shown.created_at == made.created_at
try:
    migrations.delete(made)
except exceptions.Conflict as conflict:
    assert "Conflict: Migration is RUNNING" in str(conflict), conflict
else:
    sys.exit("a running migration was deleted")
assert migrations.cancel(made).status_code == 204
assert migrations.get(made.id).status == "CANCELED"
assert migrations.delete(made).status_code == 204
try:
    migrations.get(made.id)
except exceptions.NotFound as missing:
    assert made.id in str(missing), missing
else:
    sys.exit("the migration is still there")
print("done")
"""


@pytest.fixture(scope="session")
def environment() -> Path:
    """The folder with the client's programs; made once, kept in the cache folder of the work tree."""
    directory = ROOT / ".cache" / "real-client"
    programs = directory / "bin"
    if not (directory / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True, timeout=INSTALL_TIMEOUT_S)
        # pbr of that age needs pkg_resources, which newer setuptools no longer has
        install = [programs / "python", "-m", "pip", "install", "-q", "setuptools<81", CLIENT]
        subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
        (directory / "complete").touch()
    return programs


def variables(stack: Stack) -> dict[str, str]:
    lines = stack.admin.openrc(f"{stack.url}/v3").splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
    return {"PATH": os.environ["PATH"], **dict(pairs)}


def test_library(stack: Stack, environment: Path) -> None:
    done = subprocess.run(
        [environment / "python", "-W", "ignore", "-c", LIFE],
        env={**variables(stack), "BODY": json.dumps(BODY)},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.stdout == "done\n", done.stderr


def test_command_line(stack: Stack, environment: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [environment / "coriolis", *arguments],
            env=variables(stack),
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
        )
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    body = BODY["migration"]
    made = json.loads(
        run(
            "migration", "create", "-f", "json",
            "--origin-provider", "libvirt", "--origin-connection", json.dumps(body["origin"]["connection_info"]),
            "--destination-provider", "libvirt", "--destination-connection", '{"uri": "qemu:///system"}',
            "--target-environment", json.dumps(body["destination"]["target_environment"]), "--instance", "vm-01",
        )
    )  # fmt: skip
    assert made["status"] == "RUNNING"
    assert made["id"] in run("migration", "list")
    assert "REPLICATE_DISKS" in run("migration", "show", made["id"])
    run("migration", "cancel", made["id"])
    run("migration", "delete", made["id"])
    assert f'Migration with ID "{made["id"]}" not found. (HTTP 404)' in run("migration", "show", made["id"], code=1)
