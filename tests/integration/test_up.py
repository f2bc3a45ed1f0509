"""``coriolis up`` as a user meets it: openrc, a migration by the CLI, Ctrl-C in the middle, and a second start."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SIZE = 96 * MIB
READ_LIMIT = 12 * MIB
ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 90.0

pytestmark = pytest.mark.timeout(400)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_up(data_dir: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``coriolis up`` until its gateway is ready; SIGINT at the end, as Ctrl-C sends it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "CORIOLIS_READ_LIMIT_BYTES_PER_S": str(READ_LIMIT)}
    command = [sys.executable, "-m", "coriolis.cli.main", "up", "--data-dir", str(data_dir)]
    log = data_dir.with_suffix(".log")
    earlier = log.read_text().count("Coriolis is up") if log.exists() else 0
    with log.open("ab") as output:
        up = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stdout=output, stderr=output, env=environ)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while log.read_text().count("Coriolis is up") <= earlier:
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield up
    finally:
        up.send_signal(signal.SIGINT)
        try:
            code = up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()
            raise
    assert code == 0, log.read_text()


def coriolis(data_dir: Path, *arguments: str, expect: int = 0) -> Any:
    """Run the CLI with the variables of admin-openrc; what its JSON answer wraps."""
    found = re.findall(r"^export (\w+)=(.*)$", (data_dir / "admin-openrc").read_text(), re.MULTILINE)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **{name: value.strip("'\"") for name, value in found}}
    output = () if arguments[1] == "delete" else ("-o", "json")
    command = [sys.executable, "-m", "coriolis.cli.main", *arguments, *output]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    if not output:
        return None
    [answer] = json.loads(done.stdout).values()
    return answer


def build_origin(folder: Path) -> str:
    folder.mkdir()
    content = random.Random(1).randbytes(SIZE)
    (folder / "disk.img").write_bytes(content)
    (folder / "vm.toml").write_text(
        'name = "vm"\nnum_cpu = 1\nmemory_mb = 64\n[[disks]]\nfile = "disk.img"\nformat = "raw"\n'
    )
    return hashlib.sha256(content).hexdigest()


def wait_for(data_dir: Path, migration_id: str, done: Any, timeout_s: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        migration: dict[str, Any] = coriolis(data_dir, "migration", "show", migration_id)
        if done(migration):
            return migration
        assert time.monotonic() < deadline, migration
        time.sleep(0.3)


def moved(migration: dict[str, Any]) -> bool:
    return any(
        update["current_step"] > 10
        for task in migration["tasks"]
        if task["task_type"] == "REPLICATE_DISKS"
        for update in task["progress_updates"]
    )


def test_a_restart_goes_on_with_what_was_running(tmp_path: Path) -> None:
    data_dir, port = tmp_path / "mesh", free_port()
    origin, destination = tmp_path / "a", tmp_path / "b"
    destination.mkdir()
    want = build_origin(origin)
    with running_up(data_dir, port):
        assert {agent["specs"]["site"] for agent in coriolis(data_dir, "agent", "list")} == {"site-a", "site-b"}
        created = coriolis(
            data_dir,
            *("migration", "create", "--origin", "image", "--destination", "image", "--instance", "vm"),
            *("--origin-connection", json.dumps({"path": str(origin)})),
            *("--destination-connection", json.dumps({"path": str(destination)})),
            *("--skip-os-morphing", "--passes", "1"),
        )
        wait_for(data_dir, created["id"], moved)
    with running_up(data_dir, port):
        migration = wait_for(data_dir, created["id"], lambda found: found["status"] not in ("RUNNING", "CANCELLING"))
        assert migration["status"] == "COMPLETED", migration
        made = (destination / "vm.disks" / "disk-0.raw").read_bytes()
        assert hashlib.sha256(made).hexdigest() == want
        assert coriolis(data_dir, "verify", created["id"])["status"] == "COMPLETED"
        coriolis(data_dir, "migration", "delete", created["id"])
        assert coriolis(data_dir, "migration", "list") == []
    assert not [line for line in Path("/proc").glob("[0-9]*/cmdline") if str(data_dir).encode() in read(line)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
