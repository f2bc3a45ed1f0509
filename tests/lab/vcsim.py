"""govmomi's simulated vCenter as a process of its own: ``with vcsim() as simulator``. Built once, then cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("vcsim")
BUILD_TIMEOUT_S = 900
USER, PASSWORD = "administrator@vsphere.local", "a secret of the lab"


@dataclass(frozen=True)
class Simulator:
    """``thumbprint``: SHA-1 of its self-signed certificate."""

    host: str
    port: int
    thumbprint: str
    process: subprocess.Popen[str]

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


def built() -> Path:
    """The program, built when the sources are new to the cache. Needs Go; modules come from the module proxy."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.glob("*")):
        digest.update(path.name.encode() + path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    cache = Path(os.environ.get("CORIOLIS_LAB_CACHE", f"{home}/coriolis-lab"))
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"vcsim-{digest.hexdigest()[:12]}"
    if not program.exists():
        go = shutil.which("go")
        if go is None:
            raise RuntimeError("needs Go 1.24 or later on PATH to build vcsim")
        part = Path(tempfile.mkdtemp(dir=cache)) / "vcsim"
        subprocess.run([go, "build", "-o", str(part), "."], cwd=SOURCE, check=True, timeout=BUILD_TIMEOUT_S)
        part.replace(program)
        part.parent.rmdir()
    return program


@contextmanager
def vcsim(*options: str) -> Iterator[Simulator]:
    """A vCenter with two machines in each of two pools; ``options`` of ``tests/lab/vcsim/main.go``."""
    command = [str(built()), "-user", USER, "-password", PASSWORD, *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        host, _, port = said["url"].rpartition("//")[2].partition(":")
        yield Simulator(host, int(port), said["thumbprint"], process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
