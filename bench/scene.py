"""Where a run happens: directories, certificates, and the two ends (loopback, or two network namespaces)."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "out"
DOMAIN = "bench.mesh"
SHM = Path("/dev/shm")
TMPFS_NEEDED = 14 << 30
"""Available memory from which images of the standard size are copied within tmpfs."""
CERTIFICATE_HOURS = 48.0
# Debian's names of the files that nbdkit, libnbd and qemu look for in a directory
GNUTLS_NAMES = (("ca.pem", "ca-cert.pem"), ("cert.pem", "{}-cert.pem"), ("key.pem", "{}-key.pem"))


@dataclass(frozen=True)
class Place:
    """One end. ``prefix`` stands before each command that runs there, ``address`` is what the other end dials."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """``work`` holds source and destination (one file system); ``logs`` what the processes said."""

    work: Path
    logs: Path
    tls: dict[str, TlsFiles]
    source: Place = Place()
    sink: Place = Place()

    @property
    def image(self) -> Path:
        """The disk to copy."""
        return self.work / "origin" / "disk.raw"

    def identity(self, name: str) -> str:
        return f"spiffe://{DOMAIN}/agent/{name}"

    def gnutls(self, name: str, endpoint: str) -> Path:
        """Directory with the certificate of ``name`` under the names that gnutls programs expect of an ``endpoint``."""
        folder = self.tls[name].cert.parent / f"gnutls-{endpoint}"
        folder.mkdir(exist_ok=True)
        for ours, theirs in GNUTLS_NAMES:
            shutil.copyfile(self.tls[name].cert.parent / ours, folder / theirs.format(endpoint))
        return folder


def certificates(directory: Path, hosts: list[str]) -> dict[str, TlsFiles]:
    """Of the agents ``source`` and ``sink``, good for two days. The peers use the same ones."""
    create_ca(directory / "ca", DOMAIN)
    return {
        name: issue(
            directory / "ca", directory / name, f"spiffe://{DOMAIN}/agent/{name}", hosts, hours=CERTIFICATE_HOURS
        )
        for name in ("source", "sink")
    }


def available_memory() -> int:
    """Bytes that the kernel says new programs may use."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


@contextmanager
def scene(source: Place, sink: Place, *, work_parent: Path | None = None) -> Iterator[Scene]:
    """A fresh scene; its work directory is removed afterwards. In tmpfs unless ``work_parent`` says otherwise."""
    _sweep()
    parent = work_parent or (SHM if SHM.is_dir() else OUT)
    work = parent / f"coriolis-bench-{os.getpid()}"
    logs = OUT / "logs"
    for folder in (work / "origin", logs):
        folder.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("*.log"):
        old.unlink()
    try:
        yield Scene(work, logs, certificates(work / "tls", sorted({source.address, sink.address})), source, sink)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep() -> None:
    # memory that a killed run left behind
    for left in SHM.glob("coriolis-bench-*") if SHM.is_dir() else ():
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
