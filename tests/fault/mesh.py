"""A whole mesh of real processes on loopback, whose every part can be killed, paused and started again by name."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import tomli_w

from coriolis.errors import NotLeader, Unavailable
from coriolis.etcd.embedded import free_port
from coriolis.rpc.channel import open_channel
from coriolis.rpc.gen.coriolis.v1 import (
    bandwidth_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    endpoint_pb2,
    job_pb2,
    job_pb2_grpc,
)
from coriolis.rpc.status import to_error
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue
from tests.integration.etcd_cluster import EtcdCluster

DOMAIN = "lab.test"
PROJECT = "0123456789abcdef0123456789abcdef"
LAUNCH = "import sys; from pathlib import Path; from coriolis.cli import roles; roles.run_{role}(Path(sys.argv[1]))"
ROOT = Path(__file__).resolve().parents[2]


class Process:
    """One role: a command, a log file, a pid."""

    def __init__(self, name: str, arguments: list[str], log: Path, environ: dict[str, str]) -> None:
        self.name = name
        self.log = log
        self._arguments = arguments
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.alive, f"{self.name} runs already"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environ
            )

    def kill(self) -> None:
        """SIGKILL and reap."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Pids of the processes it started (its tasks)."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.pid:
                found.append(int(entry.name))
        return found


class Mesh:
    """``async with Mesh(dir) as mesh``: etcd nodes, coordinators, agents; and a client that follows the leader."""

    def __init__(
        self,
        directory: Path,
        *,
        etcd_nodes: int = 1,
        coordinators: int = 1,
        sites: tuple[str, ...] = ("site-a", "site-b"),
        environ: dict[str, str] | None = None,
        read_limit: int = 0,
        host: str = "127.0.0.1",
        agent_settings: Mapping[str, Mapping[str, Any]] | None = None,
        agent_prefix: Mapping[str, Sequence[str]] | None = None,
        coordinator_settings: Mapping[str, Any] | None = None,
    ) -> None:
        """``host``: where coordinators listen. Per site: more settings of its agent, what its command begins with."""
        self.dir = directory
        self.etcd = EtcdCluster(directory / "etcd", size=etcd_nodes)
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
        self.coordinators: dict[str, Process] = {}
        self.agents: dict[str, Process] = {}
        self.addresses: list[str] = []
        self._counts = (coordinators, sites)
        self._read_limit = read_limit
        self._host = host
        self._agent_settings = agent_settings or {}
        self._agent_prefix = agent_prefix or {}
        self._coordinator_settings = coordinator_settings or {}

    def certificate(self, role: str, name: str) -> TlsFiles:
        ca = create_ca(self.dir / "ca", DOMAIN)
        ca_dir = ca if ca.is_dir() else ca.parent
        return issue(ca_dir, self.dir / "tls" / f"{role}-{name}", f"spiffe://{DOMAIN}/{role}/{name}", ("127.0.0.1",))

    async def __aenter__(self) -> Mesh:
        self.dir.mkdir(parents=True, exist_ok=True)
        await self.etcd.__aenter__()
        self._prepare()
        for process in (*self.coordinators.values(), *self.agents.values()):
            process.start()
        self.tls = self.certificate("operator", "test")
        await self.wait_agents(len(self.agents))
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in (*self.agents.values(), *self.coordinators.values()):
            if process.alive:
                process.signal(signal.SIGCONT)
                process.kill()
        await self.etcd.__aexit__(None, None, None)

    def _prepare(self) -> None:
        count, sites = self._counts
        key = self.dir / "secret.key"
        key.write_bytes(secrets.token_bytes(32))
        key.chmod(0o600)
        for number in range(count):
            name = f"c{number}"
            address = f"{self._host}:{free_port()}"
            self.addresses.append(address)
            self.coordinators[name] = self._role(
                "coordinator",
                name,
                {
                    "id": name,
                    "listen": address,
                    "tls_dir": str(self.certificate("coordinator", name).cert.parent),
                    "secret_key_file": str(key),
                    "secrets_dir": str(self.dir / "secrets"),
                    **self._coordinator_settings,
                },
            )
        for site in sites:
            self.agents[site] = self._role(
                "agent",
                site,
                {
                    "id": site,
                    "site": site,
                    "state_dir": str(self.dir / f"agent-{site}"),
                    "tls_dir": str(self.certificate("agent", site).cert.parent),
                    "read_limit_bytes_per_s": self._read_limit,
                    **self._agent_settings.get(site, {}),
                },
                self._agent_prefix.get(site, ()),
            )

    def _role(self, role: str, name: str, settings: dict[str, Any], prefix: Sequence[str] = ()) -> Process:
        settings.setdefault("etcd", {"endpoints": list(self.etcd.endpoints)})
        config = self.dir / f"{name}.toml"
        config.write_text(tomli_w.dumps(settings))
        arguments = [*prefix, sys.executable, "-c", LAUNCH.format(role=role), str(config)]
        return Process(name, arguments, self.dir / f"{name}.log", self._environ)

    # -- client -------------------------------------------------------------------------------------------------

    async def leader(self) -> tuple[str, str]:
        """(id, address) of the leader as a live coordinator tells it; empty strings without one."""
        for name, address in zip(self.coordinators, self.addresses, strict=True):
            if not self.coordinators[name].alive:
                continue
            async with open_channel(address, self.tls, expected_role="coordinator") as channel:
                stub = cluster_pb2_grpc.ClusterServiceStub(channel)
                try:
                    found = await stub.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=2)
                except grpc.aio.AioRpcError:
                    continue
            if found.address:
                return found.coordinator_id, found.address
        return "", ""

    async def call(self, method: str, request: Any, *, service: str = "job", patience_s: float = 60) -> Any:
        """Call the leader, waiting through elections."""
        deadline = time.monotonic() + patience_s
        while True:
            _, address = await self.leader()
            dead = [each for each in self.coordinators.values() if not each.alive]
            if len(dead) == len(self.coordinators):
                raise AssertionError(f"no coordinator runs:\n{dead[0].log.read_text()[-3000:]}")
            try:
                if not address:
                    raise Unavailable("no leader")
                async with open_channel(address, self.tls, expected_role="coordinator") as channel:
                    stub: Any = {
                        "job": job_pb2_grpc.JobServiceStub,
                        "cluster": cluster_pb2_grpc.ClusterServiceStub,
                        "bandwidth": bandwidth_pb2_grpc.BandwidthServiceStub,
                    }[service](channel)
                    return await getattr(stub, method)(request, timeout=5)
            except (grpc.aio.AioRpcError, Unavailable) as failed:
                error = to_error(failed) if isinstance(failed, grpc.aio.AioRpcError) else failed
                if not isinstance(error, Unavailable | NotLeader) and not error.retryable:
                    raise error from failed
                if time.monotonic() > deadline:
                    raise error from failed
                await asyncio.sleep(0.2)

    async def wait_agents(self, count: int, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            answer = await self.call("ListAgents", cluster_pb2.ListAgentsRequest(), service="cluster")
            for process in (*self.coordinators.values(), *self.agents.values()):
                assert process.alive, f"{process.name} ended:\n{process.log.read_text()[-3000:]}"
            if sum(agent.connected for agent in answer.agents) >= count:
                return
            assert time.monotonic() < deadline, f"agents did not connect: {answer}"
            await asyncio.sleep(0.1)

    async def migrate(self, request: job_pb2.CreateMigrationRequest) -> str:
        request.project_id = request.project_id or PROJECT
        request.user_id = "tester"
        if not request.request_id:
            request.request_id = secrets.token_hex(8)
        answer = await self.call("CreateMigration", request)
        return str(answer.migration.id)

    async def get(self, migration_id: str, project_id: str = PROJECT) -> job_pb2.Migration:
        request = job_pb2.GetMigrationRequest(project_id=project_id, migration_id=migration_id)
        found: job_pb2.Migration = (await self.call("GetMigration", request)).migration
        return found

    async def wait(self, migration_id: str, timeout_s: float = 120) -> job_pb2.Migration:
        """The migration once it is terminal."""
        deadline = time.monotonic() + timeout_s
        while True:
            migration = await self.get(migration_id)
            if migration.status in ("COMPLETED", "ERROR", "CANCELED"):
                return migration
            if time.monotonic() > deadline:
                raise AssertionError(f"not terminal after {timeout_s} s:\n{summary(migration)}")
            await asyncio.sleep(0.2)


def endpoint(kind: str, connection: dict[str, Any], environment: dict[str, Any] | None = None) -> endpoint_pb2.Endpoint:
    return endpoint_pb2.Endpoint(
        type=kind, connection_info_json=json.dumps(connection), environment_json=json.dumps(environment or {})
    )


def summary(migration: job_pb2.Migration) -> str:
    """A migration as a reader of a failed test wants it."""
    lines = [f"{migration.id} {migration.status} residue={list(migration.residue)}"]
    for task in migration.tasks:
        lines.append(f"  {task.instance} {task.task_type} {task.status} on {task.host} {task.exception_details}")
        lines += [f"      {event.level} {event.message}" for event in task.events]
    return "\n".join(lines)
