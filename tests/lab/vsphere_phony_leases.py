"""Bytes of export and import leases. The leases are vcsim's; what they carry, and that they time out, ours."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.lab.vcsim import Simulator
from tests.lab.vsphere_phony_disks import PhonyDisk
from tests.lab.vsphere_phony_machines import Machine, Machines, PhonyFault
from tests.lab.vsphere_phony_stream import stream

CHECK_S = 0.05
PIECE = 1 << 20
CONVERT_TIMEOUT_S = 300


@dataclass
class Lease:
    method: str
    machine: Machine | None
    snapshot: str | None
    last: float
    ended: str = ""
    """``Complete``, ``Abort`` or ``timeout``."""


class PhonyLeases:
    """``timeout_s``: without progress for so long a lease ends in an error; 0 for never. ``uploads``: kept as sent."""

    def __init__(self, simulator: Simulator, machines: Machines, directory: Path) -> None:
        self._simulator, self._machines = simulator, machines
        self._directory = directory / "streams"
        self._directory.mkdir()
        self._known: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._making: dict[tuple[str, ...], threading.Lock] = {}
        self.timeout_s = 0.0
        self.uploads: dict[str, Path] = {}
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._end_idle, name="phony-leases", daemon=True)
        self._watch.start()

    def set_timeout(self, seconds: float) -> None:
        """Of leases to come; stated in whole seconds, at least 1."""
        self.timeout_s = seconds
        self._simulator.command("lease_timeout", seconds=max(1, int(seconds)) if seconds else 300)

    def made(self, lease: str, method: str, this: str) -> None:
        machine, snapshot = None, None
        if method == "ExportSnapshot":
            machine, snapshot = self._machines.owner(this), this
        elif method == "ExportVm":
            machine = self._machines.machine(this)
        with self._lock:
            self._known[lease] = Lease(method, machine, snapshot, time.monotonic())

    def called(self, lease: str, method: str) -> None:
        """Progress, completion or abort. Raises PhonyFault for a lease that has timed out."""
        with self._lock:
            found = self._known.get(lease)
            if found is None:
                return
            if found.ended == "timeout":
                raise PhonyFault("Timedout", "Operation timed out.")
            found.last = time.monotonic()
            if method != "HttpNfcLeaseProgress":
                found.ended = method.removeprefix("HttpNfcLease")

    def states(self) -> list[str]:
        """How each lease ended, oldest first; empty for those that stand."""
        with self._lock:
            return [lease.ended for lease in self._known.values()]

    def stream(self, lease: str, name: str) -> Generator[bytes] | None:
        """What a lease's URL serves; None when there is no such thing."""
        with self._lock:
            found = self._known.get(lease)
        if found is None or found.machine is None or found.ended:
            return None
        try:
            depth = found.machine.depth(found.snapshot)
        except KeyError:
            return None
        for disk in found.machine.disks.values():
            if disk.file(depth) == name:
                return self._pieces(found, disk)
        return None

    def _pieces(self, lease: Lease, disk: PhonyDisk) -> Generator[bytes]:
        """Made as it is sent, and kept for who asks again: packing is the slow part."""
        assert lease.machine is not None
        key = (lease.machine.id, lease.snapshot or f"{disk.written}", str(disk.key))
        path = self._directory / "-".join(key)
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if not path.exists():
                part = path.with_suffix(".part")
                with part.open("wb") as file:
                    for piece in self._stream(lease, disk):
                        file.write(piece)
                        yield self._still(lease, piece)
                part.rename(path)
                return
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield self._still(lease, piece)

    def _still(self, lease: Lease, piece: bytes) -> bytes:
        if lease.ended or self._closing.is_set():
            raise BrokenPipeError(f"the lease has ended: {lease.ended}")
        return piece

    def _stream(self, lease: Lease, disk: PhonyDisk) -> Iterator[bytes]:
        machine, snapshot = lease.machine, lease.snapshot
        assert machine is not None
        with self._machines.lock:
            data = [(start, end - start) for start, end in disk.allocated(machine.depth(snapshot))]
        return stream(
            lambda offset, length: self._machines.read(machine, disk, snapshot, offset, length), disk.size, data
        )

    def uploaded(self, lease: str, name: str, body: IO[bytes]) -> None:
        """An import's stream becomes the disk, judged by qemu-img. Raises CalledProcessError when it is no VMDK."""
        entity = self._simulator.command("lease_entity", id=lease)
        machine = self._machines.machine(entity)
        disk = next(disk for disk in machine.disks.values() if disk.file(0) == name)
        with tempfile.NamedTemporaryFile(dir=self._directory, suffix=".vmdk", delete=False) as kept:
            body.seek(0)
            shutil.copyfileobj(body, kept, PIECE)
        self.uploads[f"{entity}/{name}"] = Path(kept.name)
        subprocess.run(
            ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", kept.name, str(disk.flat)],
            check=True,
            timeout=CONVERT_TIMEOUT_S,
        )

    def _end_idle(self) -> None:
        while not self._closing.wait(CHECK_S):
            if not self.timeout_s:
                continue
            with self._lock:
                idle = [
                    (name, lease)
                    for name, lease in self._known.items()
                    if not lease.ended and time.monotonic() - lease.last > self.timeout_s
                ]
                for _, lease in idle:
                    lease.ended = "timeout"
            for name, _ in idle:
                with contextlib.suppress(RuntimeError):
                    self._simulator.command("lease_error", id=name)

    def close(self) -> None:
        self._closing.set()
        self._watch.join(10)
