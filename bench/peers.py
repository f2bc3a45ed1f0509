"""The tools that we are measured against: nbdcopy to nbdkit, and qemu-img convert to qemu-nbd, over TCP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.images import first_difference
from bench.measure import MachineTime, Tracked, tracked, wait_until
from bench.scene import Scene, free_port
from bench.table import Mark, Sample, expected_s

RUN_TIMEOUT_S = 1800.0
CONNECTIONS, REQUESTS, THREADS, REQUEST_BYTES = 4, 64, 4, 1 << 20
COROUTINES = 16
SECTOR = 512

Tool = Literal["nbdcopy", "qemu-img"]


@dataclass(frozen=True)
class Peer:
    """One tool with its settings. ``tls``: TLS with certificates of both sides."""

    tool: Tool
    tls: bool = True
    connections: int = CONNECTIONS

    @property
    def name(self) -> str:
        connections = "" if self.connections == CONNECTIONS else f" {self.connections} connections"
        return self.tool + ("" if self.tls else " plain") + connections

    def server_argv(self, scene: Scene, port: int, pid_file: Path, disk: Path) -> list[str]:
        if self.tool == "nbdcopy":
            return [*scene.sink.prefix, *_nbdkit(scene, self.tls, port, pid_file), "file", str(disk)]
        return [*scene.sink.prefix, *_qemu_nbd(scene, self.tls, port, pid_file), str(disk)]

    def client_argv(self, scene: Scene, port: int) -> list[str]:
        if self.tool == "nbdcopy":
            return [*scene.source.prefix, *_nbdcopy(scene, self.tls, port, self.connections)]
        return [*scene.source.prefix, *_qemu_img(scene, self.tls, port)]

    @contextmanager
    def _serving(self, scene: Scene) -> Iterator[tuple[Tracked, Path, list[str]]]:
        """A server that listens, its fresh disk, and the client's command; nothing of them stays."""
        disk = scene.work / "destination.raw"
        pid_file = scene.work / "server.pid"
        port = free_port()
        with disk.open("wb") as file:
            file.truncate(scene.image.stat().st_size)
        pid_file.unlink(missing_ok=True)
        server = Tracked(self.server_argv(scene, port, pid_file, disk), log=scene.logs / f"{self.tool}-server.log")
        try:
            with tracked(server):
                wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "listening", server)
                yield server, disk, self.client_argv(scene, port)
        finally:
            disk.unlink()

    def run(self, scene: Scene) -> Sample:
        """Copy the scene's image once and compare. Raises OSError when the tool fails, ValueError on a difference."""
        machine = MachineTime.now()
        with self._serving(scene) as (server, disk, argv):
            started_cpu = server.look()
            client = Tracked(argv, log=scene.logs / f"{self.tool}.log")
            with tracked(client):
                used = client.wait(RUN_TIMEOUT_S)
            if client.process.returncode:
                raise OSError(f"{self.name} ended with {client.process.returncode}:\n{client.tail()}")
            served = server.stop()
            cpu = used.cpu_s + served.cpu_s
            sample = Sample(
                copy_s=client.ended_at - client.started_at,
                whole_s=client.ended_at - server.started_at,
                cpu_s=cpu - started_cpu,
                whole_cpu_s=cpu,
                source_rss=used.largest_rss,
                sink_rss=served.largest_rss,
                total_rss=used.total_rss + served.total_rss,
                allocated=disk.stat().st_blocks * SECTOR,
                others=machine.others_since(cpu),
            )
            different = first_difference(scene.image, disk)
        if different is not None:
            raise ValueError(f"{self.name} left another disk than the image, from byte {different}")
        return sample

    def probe(self, scene: Scene, patience_s: float) -> float:
        """Seconds that a whole copy would take, judged by what is written in the second half of ``patience_s``."""
        marks = [Mark(0.0, 0)]
        with self._serving(scene) as (_, disk, argv):
            client = Tracked(argv, log=scene.logs / f"{self.tool}-probe.log")
            with tracked(client):
                for share in (0.5, 1.0):
                    try:
                        client.wait(client.started_at + share * patience_s - time.monotonic())
                    except TimeoutError:
                        marks.append(Mark(time.monotonic() - client.started_at, disk.stat().st_blocks * SECTOR))
                    else:
                        if client.process.returncode:
                            raise OSError(f"{self.name} ended with {client.process.returncode}:\n{client.tail()}")
                        return client.ended_at - client.started_at
        return expected_s(marks[-2], marks[-1], scene.image.stat().st_blocks * SECTOR)


def _nbdkit(scene: Scene, tls: bool, port: int, pid_file: Path) -> list[str]:
    secured = ["--tls=require", f"--tls-certificates={scene.gnutls('sink', 'server')}", "--tls-verify-peer"]
    where = ["--ipaddr", scene.sink.address, "--port", str(port), "--pidfile", str(pid_file)]
    return ["nbdkit", "--foreground", *where, *(secured if tls else [])]


def _nbdcopy(scene: Scene, tls: bool, port: int, connections: int) -> list[str]:
    target = f"nbd://{scene.sink.address}:{port}"
    if tls:
        target = f"nbds://{scene.sink.address}:{port}?tls-certificates={scene.gnutls('source', 'client')}"
    return [
        "nbdcopy",
        f"--connections={connections}",
        f"--requests={REQUESTS}",
        # a connection needs a thread of its own
        f"--threads={max(THREADS, connections)}",
        f"--request-size={REQUEST_BYTES}",
        "--destination-is-zero",
        "--flush",
        # its fastest source: the local file itself, no second server
        str(scene.image),
        target,
    ]


def _tls_object(folder: Path, endpoint: str) -> list[str]:
    return ["--object", f"tls-creds-x509,id=tls0,endpoint={endpoint},dir={folder},verify-peer=on"]


def _qemu_nbd(scene: Scene, tls: bool, port: int, pid_file: Path) -> list[str]:
    secured = [*_tls_object(scene.gnutls("sink", "server"), "server"), "--tls-creds", "tls0"] if tls else []
    where = ["--bind", scene.sink.address, "--port", str(port), "--pid-file", str(pid_file)]
    return ["qemu-nbd", "--format", "raw", "--persistent", "--shared", str(COROUTINES), *where, *secured]


def _qemu_img(scene: Scene, tls: bool, port: int) -> list[str]:
    secured = _tls_object(scene.gnutls("source", "client"), "client") if tls else []
    target = f"driver=nbd,server.type=inet,server.host={scene.sink.address},server.port={port}"
    return [
        "qemu-img",
        "convert",
        *secured,
        "-n",
        "-W",
        "-m",
        str(COROUTINES),
        # as for the others: the destination is known to be fresh
        "--target-is-zero",
        "-f",
        "raw",
        "--target-image-opts",
        str(scene.image),
        target + (",tls-creds=tls0" if tls else ""),
    ]
