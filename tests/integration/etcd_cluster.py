"""etcd nodes on loopback, each owned by pid: start, kill, pause, resume. Reusable by fault tests."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from coriolis.errors import CoriolisError
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.embedded import QUOTA_BYTES, find_binary, free_port, launch, node_arguments

READY_TIMEOUT_S = 20.0


@dataclass
class Node:
    name: str
    directory: Path
    client_port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.client_port}"

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL and wait; killing a dead node is fine."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self.process = None


@dataclass
class EtcdCluster:
    """``async with EtcdCluster(directory, size=3) as cluster``: yields when every node answers."""

    directory: Path
    size: int = 3
    binary: Path = field(default_factory=find_binary)
    quota_bytes: int = QUOTA_BYTES
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [f"n{number}" for number in range(self.size)]
        self.nodes = [Node(name, self.directory / name, free_port()) for name in names]
        self._peer_ports = {name: free_port() for name in names}

    @property
    def endpoints(self) -> list[str]:
        return [node.endpoint for node in self.nodes]

    async def start(self, node: Node) -> None:
        """Start or restart one node on its data; returns before it answers."""
        node.directory.mkdir(parents=True, exist_ok=True)
        data = node.directory / "data"
        data.mkdir(exist_ok=True, mode=0o700)
        arguments = node_arguments(node.name, data, node.client_port, self._peer_ports, self.quota_bytes)
        node.process = await launch(self.binary, arguments, node.directory / "etcd.log")

    async def wait_ready(self, node: Node) -> None:
        async with asyncio.timeout(READY_TIMEOUT_S), EtcdClient([node.endpoint]) as client:
            while True:
                try:
                    await client.get("/ready")
                    return
                except CoriolisError:
                    await asyncio.sleep(0.05)

    async def raft_leader(self) -> Node:
        """The node that leads now, asked of each running node in turn."""
        for node in self.nodes:
            if node.process is None:
                continue
            async with EtcdClient([node.endpoint]) as client:
                status = await client.status()
                if status.leader == status.header.member_id:
                    return node
        raise AssertionError("no node leads")

    async def __aenter__(self) -> EtcdCluster:
        try:
            for node in self.nodes:
                await self.start(node)
            for node in self.nodes:
                await self.wait_ready(node)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.kill()
