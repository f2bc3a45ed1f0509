"""The command line as a process, against the gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coriolis.cli.exits import Exit
from tests.api.stack import BODY, Stack

RUN_TIMEOUT_S = 60


class Shell:
    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = {**os.environ, **variables}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "coriolis.cli.main", *arguments]
        return subprocess.Popen(command, env=self._variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str, code: int = Exit.OK) -> str:
        process = self.start(*arguments)
        out, error = process.communicate(timeout=RUN_TIMEOUT_S)
        assert process.returncode == code, out + error
        return out if code == Exit.OK else error


@pytest.fixture
def shell(stack: Stack) -> Shell:
    lines = stack.admin.openrc(f"{stack.url}/v3").splitlines()
    return Shell(dict(line.removeprefix("export ").split("=", 1) for line in lines))


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    path = tmp_path / "wave.yaml"
    path.write_text(yaml.safe_dump(BODY))
    return path


def test_life_of_a_migration(stack: Stack, shell: Shell, wave: Path) -> None:
    made = json.loads(shell.run("migration", "create", "-f", str(wave), "--passes", "3", "-o", "json"))["migration"]
    assert made["replication_count"] == 3
    assert made["id"] in shell.run("migration", "list")
    assert "REPLICATE_DISKS" in shell.run("migration", "show", made["id"])
    assert yaml.safe_load(shell.run("migration", "show", made["id"], "-o", "yaml"))["migration"]["id"] == made["id"]
    assert "(HTTP 409)" in shell.run("migration", "delete", made["id"], code=Exit.CONFLICT)
    shell.run("migration", "cancel", made["id"], "--wait")
    shell.run("migration", "delete", made["id"])
    missing = shell.run("migration", "show", made["id"], code=Exit.NOT_FOUND)
    assert missing.startswith(f'Error: NotFound: Migration with ID "{made["id"]}" not found. (HTTP 404)\n')


@pytest.mark.parametrize(
    ("status", "code"),
    [("COMPLETED", Exit.OK), ("ERROR", Exit.MIGRATION_ERROR), ("CANCELED", Exit.MIGRATION_CANCELED)],
)
def test_waiting_ends_with_the_migrations_end(stack: Stack, shell: Shell, wave: Path, status: str, code: int) -> None:
    process = shell.start("migration", "create", "-f", str(wave), "--wait", "-o", "json")
    assert process.stderr is not None
    migration_id = process.stderr.readline().split()[1]
    while "ETA" not in process.stderr.readline():
        pass  # it follows
    stack.call(stack.mesh.move, migration_id, status)
    out, _ = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == code
    assert json.loads(out)["migration"]["status"] == status


def test_verify(stack: Stack, shell: Shell, wave: Path) -> None:
    made = json.loads(shell.run("migration", "create", "-f", str(wave), "-o", "json"))["migration"]
    shell.run("verify", made["id"], code=Exit.CONFLICT)
    stack.call(stack.mesh.move, made["id"], "COMPLETED")
    assert "COMPLETED" in shell.run("verify", made["id"])


def test_secrets_and_mesh(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text('{"password": "open sesame"}')
    secret_id = shell.run("secret", "put", "lab", f"@{tmp_path}/lab.json").strip()
    listed = shell.run("secret", "list")
    assert secret_id in listed
    assert "sesame" not in listed
    shell.run("secret", "delete", secret_id)
    assert "agent-a" in shell.run("agent", "list")
    assert "c0" in shell.run("coordinator", "list")


def test_failures_say_what_to_do(shell: Shell, wave: Path) -> None:
    assert "OS_USERNAME" in Shell({"OS_USERNAME": "", "OS_AUTH_URL": "x"}).run("agent", "list", code=Exit.USAGE)
    wrong = shell.run("migration", "list", "--os-password", "wrong", code=Exit.NOT_ALLOWED)
    assert "(HTTP 401)" in wrong
    assert "OS_PASSWORD" in wrong
    down = shell.run("migration", "list", "--os-auth-url", "http://127.0.0.1:1/v3", code=Exit.UNAVAILABLE)
    assert "cannot be reached" in down
    refused = shell.run("migration", "create", "-f", str(wave), "--origin", "smoke", code=Exit.REFUSED)
    assert "origin.type" in refused
    assert "is missing" in shell.run("migration", "create", code=Exit.USAGE)
    shell.run("migration", "create", "-f", "absent.yaml", code=Exit.USAGE)
    shell.run("migration", "show", "../secrets", code=Exit.USAGE)


def test_local_commands(shell: Shell, tmp_path: Path) -> None:
    ca, out = str(tmp_path / "ca"), str(tmp_path / "tls")
    shell.run("pki", "ca", "--dir", ca, "--trust-domain", "mesh.test")
    shell.run("pki", "issue", "agent", "paris", "--ca", ca, "--out", out, "--host", "127.0.0.1")
    assert json.loads(shell.run("pki", "show", out, "-o", "json"))["identity"] == "spiffe://mesh.test/agent/paris"
    shell.run("pki", "issue", "agent", "no/slash", "--ca", ca, "--out", out, code=Exit.REFUSED)
    users = str(tmp_path / "users.toml")
    assert "OS_PASSWORD=" in shell.run("user", "add", "alice", "--project", "web", "--users-file", users)
    assert "alice" in shell.run("user", "list", "--users-file", users)
    shell.run("user", "remove", "alice", "--users-file", users)
    shell.run("user", "remove", "alice", "--users-file", users, code=Exit.NOT_FOUND)
    for name in ("bash", "zsh", "fish"):
        assert "_CORIOLIS_COMPLETE" in shell.run("completion", name)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "migration",
        "migration create",
        "verify",
        "secret",
        "agent",
        "coordinator",
        "gateway",
        "pki",
        "user",
        "completion",
    ],
)
def test_help_teaches(shell: Shell, command: str) -> None:
    text = shell.run(*command.split(), "--help")
    assert "coriolis" in text or command == "verify"


def test_help_is_fast(shell: Shell) -> None:
    code = "import sys, coriolis.cli.main; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"grpc", "httpx", "rich", "fastapi", "yaml"} & set(loaded)


def test_links(shell: Shell) -> None:
    table = shell.run("link", "list")
    assert "agent-c" in table
    assert "12.3 ms" in table
    assert "5.0 MiB/s" in table
    first, second = json.loads(shell.run("link", "list", "-o", "json"))["links"]
    assert (first["path"], first["relay"], first["limit_bytes_per_s"]) == ("relay", "agent-c", None)
    assert (second["state"], second["path"], second["rtt_ms"]) == ("CLOSED", None, None)
    assert "relay = true" in shell.run("link", "--help")


def test_inspect(shell: Shell, wave: Path) -> None:
    shown = shell.run("inspect", f"@{wave}", "vm-01", "--platform", "openstack")
    assert "Debian 12" in shown
    assert "SOMETHING" in shown
    connection = json.dumps(BODY["migration"]["origin"]["connection_info"])
    document = json.loads(shell.run("inspect", "libvirt", "vm-01", "--connection", connection, "-o", "json"))
    assert document["inspection"]["convertible"] is True
    assert "--connection or --secret" in shell.run("inspect", "libvirt", "vm-01", code=Exit.USAGE)


def test_scripts_from_files(shell: Shell, wave: Path, tmp_path: Path) -> None:
    script = tmp_path / "fix.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    options = ("--script", f"linux={script}", "--script-phase", "replica_first_boot", "-o", "json")
    made = json.loads(shell.run("migration", "create", "-f", str(wave), *options))["migration"]
    entry = {"payload": "#!/bin/sh\ntrue\n", "phase": "replica_first_boot"}
    assert made["user_scripts"] == {"global": {"linux": [entry]}}
    missing = ("--script", f"linux={tmp_path / 'none'}")
    assert "cannot be read" in shell.run("migration", "create", "-f", str(wave), *missing, code=Exit.USAGE)


def test_manifests_and_samples(stack: Stack, shell: Shell, wave: Path, tmp_path: Path) -> None:
    made = json.loads(shell.run("migration", "create", "-f", str(wave), "-o", "json"))["migration"]["id"]
    assert json.loads(shell.run("manifest", "list", made, "-o", "json")) == {"manifests": []}
    stack.call(stack.mesh.move, made, "COMPLETED")
    assert "1111" in shell.run("manifest", "list", made)
    shown = shell.run("manifest", "show", made, "vda")
    assert "spiffe://api.test/agent/b" in shown
    assert "NotFound" in shell.run("manifest", "show", made, "vdb", code=Exit.NOT_FOUND)
    ca = stack.tls / "ca" / "ca.pem"
    # what the fake mesh calls signed is not, and that must be told with and without a gateway
    told = shell.run("manifest", "check", made, "--ca", str(ca), code=Exit.DIFFERENT)
    assert told == ""
    document = tmp_path / "disk.json"
    document.write_text(shell.run("manifest", "show", made, "vda", "-o", "json"))
    offline = Shell({"OS_AUTH_URL": "", "OS_USERNAME": ""})
    offline.run("manifest", "check", str(document), "--ca", str(ca), code=Exit.DIFFERENT)
    document.write_text("{}")
    assert "neither a manifest" in offline.run("manifest", "check", str(document), "--ca", str(ca), code=Exit.USAGE)
    assert "OS_AUTH_URL is not set" in offline.run("manifest", "check", made, "--ca", str(ca), code=Exit.USAGE)
    told = shell.run("verify", made, "--sample", "5%", "--seed", "42")
    assert "seed 42" in told
    assert "52.0 MiB / 1.0 GiB" in told
    assert json.loads(shell.run("verify", made, "-o", "json"))["verification"]["sample"] is None
    shell.run("verify", made, "--sample", "0%", code=Exit.REFUSED)
