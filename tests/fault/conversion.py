"""Conversions of phony guests in processes of their own, and what they leave behind."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from blake3 import blake3

from coriolis.convert.appliance import SOCKET_GRACE_S
from coriolis.convert.request import ConversionResult
from tests.lab.phony_disk import BOOT_AT, ROOT_AT, make_plain
from tests.lab.phony_distros import DISTROS, MACS

GUEST = "debian11"
CONVERSION_TIMEOUT_S = 300.0
END_TIMEOUT_S = 20.0
_SOCKETS = re.compile(rb"/tmp/libguestfs[A-Za-z0-9]{6}(?=/)")
REPOSITORY = Path(__file__).parents[2]


def disk_digest(path: Path) -> str:
    return blake3(max_threads=2).update_mmap(path).hexdigest()


class Conversions:
    """A replica, and conversions of it: each attempt is a process that a test may kill."""

    def __init__(self, folder: Path) -> None:
        self.replica = folder / "replica.raw"
        make_plain(GUEST, self.replica)
        self.replica_digest = disk_digest(self.replica)
        self.volume, self.work_dir = folder / "volume.raw", folder / "work"
        self._log = folder / "log"
        self._state = folder / "state"
        # sockets need short paths
        self.scratch = Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
        self.sockets: set[Path] = set()
        self._number = 0
        self._retried_at = 0.0

    def new_volume(self) -> None:
        """A copy of the replica, and an empty work directory."""
        self._number += 1
        self.volume.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", self.replica, self.volume], check=True)
        self.work_dir = self.work_dir.with_name(f"work-{self._number}")

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.lab.convert_disk", self.replica, self.volume]
        command += ["--work-dir", self.work_dir, "--state-dir", self._state]
        for mac, _ in zip(MACS, DISTROS[GUEST].nics, strict=False):
            command += ["--mac", mac]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.scratch)}
        with self._log.open("wb") as log:
            return subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment, cwd=REPOSITORY)

    def said(self) -> str:
        """What the last process has printed."""
        return self._log.read_text()

    def convert(self) -> ConversionResult:
        """An attempt that nobody kills."""
        self._retried_at = time.time()
        process = self.start()
        status = process.wait(CONVERSION_TIMEOUT_S)
        assert status == 0, self.said()
        return msgspec.json.decode(self.said().splitlines()[-1], type=ConversionResult)

    @property
    def writing(self) -> bool:
        """Whether a volume may have been written to."""
        return (self.work_dir / "applying").exists()

    def leftovers(self) -> list[str]:
        """Files that no conversion should leave, now that none runs."""
        kept = {"conversion.json", "applying", "lock", "disk-0.delta"}
        work = [one.name for one in self.work_dir.iterdir() if one.name not in kept]
        old = self._retried_at - SOCKET_GRACE_S - 1
        sockets = [str(one) for one in self.sockets if one.exists() and one.stat().st_mtime < old]
        return work + [one.name for one in self.scratch.iterdir()] + sockets

    def files_of_volume(self, folder: Path) -> dict[str, str]:
        """Path -> kind, mode, content of all files on the volume. Raises if a file system is not clean.

        Not the bytes of the disk: ext4 writes the time into its superblock at each mount and into each file it changes.
        """
        found: dict[str, str] = {}
        for name, at in (("boot", BOOT_AT), ("root", ROOT_AT)):
            image, target = f"{self.volume}?offset={at}", folder / name
            subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)
            target.mkdir(parents=True)
            subprocess.run(["debugfs", "-R", f"rdump / {target}", image], check=True, capture_output=True)
            found |= {f"{name}/{path.relative_to(target)}": described(path) for path in target.rglob("*")}
        return found


def described(path: Path) -> str:
    mode = path.lstat().st_mode
    content = (
        os.readlink(path) if path.is_symlink() else blake3(path.read_bytes()).hexdigest() if path.is_file() else ""
    )
    return f"{mode:o} {content}"


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [one for child in children for one in (int(child), *descendants(int(child)))]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def users_of(folder: Path) -> Iterator[int]:
    """Processes that have a path below ``folder`` in their command line or environment."""
    needle = os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if needle in text and running(int(entry.name)):
                yield int(entry.name)


def sockets_of(pids: Iterable[int]) -> set[Path]:
    """The directories of sockets that appliances among the processes use."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            found |= {Path(match[0].decode()) for match in _SOCKETS.finditer(words)}
    return found


def kill_at(conversions: Conversions, number: int, rng: random.Random, whole_s: float, writes: int) -> str:
    """Start a conversion and SIGKILL it at a random moment; which one. It may have ended before.

    The moments: any time from the start to the end; between two writes to the volume; around the end of the worker,
    when the delta is saved and committed: too short to be met by chance.
    """
    kind = ("time", "saving", "time", "writes")[number % 4]
    if kind == "writes":
        count = rng.randrange(writes)
        process = conversions.start("--kill-after-writes", str(count))
        process.wait(CONVERSION_TIMEOUT_S)
        return f"before write {count + 1}"
    after_s = rng.uniform(0, whole_s if kind == "time" else 0.1)
    process = conversions.start()
    if kind == "saving":
        deadline = time.monotonic() + CONVERSION_TIMEOUT_S
        while "verified;" not in conversions.said() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
    time.sleep(after_s)
    started = descendants(process.pid)
    conversions.sockets |= sockets_of(started)
    process.kill()
    process.wait()
    deadline = time.monotonic() + END_TIMEOUT_S
    while left := [pid for pid in {*started, *users_of(conversions.scratch)} if running(pid)]:
        assert time.monotonic() < deadline, f"processes {left} outlived their parent"
        time.sleep(0.1)
    return f"{after_s:.3f} s after {'the start' if kind == 'time' else 'verification'}"
