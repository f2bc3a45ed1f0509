"""The example of docs/deploy.md, run as written with loopback addresses in place of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from coriolis.etcd.embedded import find_binary

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
GATEWAY = "http://127.0.0.31:7667"
HERE = {
    "10.0.0.": "127.0.0.",
    "10.1.0.5": "127.0.1.5",
    "10.2.0.5": "127.0.2.5",
    "https://coriolis.example": GATEWAY,
    # etcd checks a peer's certificate against the address it comes from, which on loopback is this one
    '--hours "$HOURS"': '--hours "$HOURS" --host 127.0.0.1',
}
READY_TIMEOUT_S = 60.0
CLI = f'exec "{sys.executable}" -m coriolis.cli.main "$@"\n'


@contextmanager
def running(command: list[str], folder: Path, environ: dict[str, str]) -> Iterator[None]:
    with (folder / f"{command[1].rpartition('/')[2]}-{command[-1]}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def example(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The example's files, and an environment whose PATH has ``coriolis``."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLES, folder)
    for file in folder.iterdir():
        text = file.read_text()
        for documented, here in HERE.items():
            text = text.replace(documented, here)
        file.write_text(text)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "coriolis").write_text(f"#!/bin/sh\n{CLI}")
    (programs / "coriolis").chmod(0o755)
    paths = [str(programs), os.environ["PATH"]]
    root = str(EXAMPLES.parents[1])
    environ = {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": root, "ETCD": str(find_binary())}
    return folder, environ


def test_three_coordinators_three_etcd_nodes_and_two_sites(example: tuple[Path, dict[str, str]]) -> None:
    folder, environ = example
    subprocess.run(["./make_certificates"], cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
    (folder / "secret.key").write_bytes(secrets.token_bytes(32))
    (folder / "secret.key").chmod(0o600)
    added = subprocess.run(
        ["coriolis", "user", "add", "ada", "--project", "admin", "--role", "admin", "--users-file", "users.json"],
        cwd=folder, env=environ, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    environ |= dict(line.removeprefix("export ").split("=", 1) for line in added.splitlines() if "OS_" in line)
    environ["OS_AUTH_URL"] = f"{GATEWAY}/v3"
    commands = [["bash", "./start_etcd", str(number)] for number in (1, 2, 3)]
    commands += [["coriolis", "coordinator", "--config", f"coordinator-{number}.toml"] for number in (1, 2, 3)]
    commands += [["coriolis", "agent", "--config", f"agent-{site}.toml"] for site in ("paris", "oslo")]
    commands += [["coriolis", "gateway", "--config", "gateway.toml"]]
    with ExitStack() as stack:
        for command in commands:
            stack.enter_context(running(command, folder, environ))
        coordinators = _wait_for(["coriolis", "coordinator", "list", "-o", "json"], 3, folder, environ)
        agents = _wait_for(["coriolis", "agent", "list", "-o", "json"], 2, folder, environ)
    assert {"c1", "c2", "c3"} == {found["id"] for found in coordinators}
    assert {"paris", "oslo"} == {found["id"] for found in agents}


def _wait_for(command: list[str], count: int, folder: Path, environ: dict[str, str]) -> list[dict[str, object]]:
    """What the command lists once it lists ``count`` members that are up."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    shown = ""
    while time.monotonic() < deadline:
        if _ready():
            done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
            shown = done.stdout + done.stderr
            if done.returncode == 0:
                found: list[dict[str, object]] = next(iter(json.loads(done.stdout).values()))
                if sum(one.get("status", "UP") == "UP" for one in found) == count:
                    return found
        time.sleep(0.3)
    logs = "\n".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(folder.glob("*.log")))
    raise AssertionError(f"{shown}\n{logs}")


def _ready() -> bool:
    try:
        return httpx.get(f"{GATEWAY}/readyz", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
