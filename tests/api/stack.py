"""A gateway with embedded identity on a real port, in front of a fake mesh, in a thread with its own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from coriolis.rpc.leader import LeaderClient
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue
from gateway.app import build_app, make_server
from gateway.backend import MeshBackend
from gateway.embedded_identity import EmbeddedIdentity
from gateway.settings import GatewayConfig
from gateway.tokens import TokenSigner
from gateway.users_file import Credentials, add_user, write_default_users
from tests.api.fake_coordinator import FakeCoordinator, FakeMesh

DOMAIN = "api.test"
START_TIMEOUT_S = 20
ELECTION_WAIT_S = 3.0

BODY: dict[str, Any] = {
    "migration": {
        "origin": {"type": "libvirt", "connection_info": {"uri": "qemu:///system", "password": "open sesame"}},
        "destination": {
            "type": "libvirt",
            "connection_info": {"uri": "qemu:///system"},
            "target_environment": {"storage": "default", "network_map": {"VM Network": "default"}},
        },
        "instances": ["vm-01"],
    }
}


@dataclass
class Stack:
    """``admin`` and ``other`` are users of two projects, ``reader`` may only look at the first one."""

    url: str
    mesh: FakeMesh
    coordinators: list[FakeCoordinator]
    loop: asyncio.AbstractEventLoop
    admin: Credentials
    other: Credentials
    reader: Credentials
    tls: Path

    def token(self, who: Credentials, *, scoped: bool = True) -> str:
        user = {"name": who.username, "domain": {"name": "Default"}, "password": who.password}
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
        if scoped:
            auth["scope"] = {"project": {"name": who.project_name, "domain": {"id": "default"}}}
        answer = httpx.post(f"{self.url}/v3/auth/tokens", json={"auth": auth})
        answer.raise_for_status()
        return answer.headers["X-Subject-Token"]

    def client(self, who: Credentials, **headers: str) -> httpx.Client:
        """Speaks for ``who`` below ``/v1/<project>``."""
        base = f"{self.url}/v1/{who.project_id}"
        return httpx.Client(base_url=base, headers={"X-Auth-Token": self.token(who), **headers}, timeout=30)

    def call(self, function: Any, *arguments: Any) -> None:
        """Run ``function`` in the stack's loop and wait for it."""

        async def run() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(5)


@asynccontextmanager
async def fake_mesh(directory: Path, size: int = 2) -> AsyncIterator[tuple[FakeMesh, list[FakeCoordinator]]]:
    """Certificates in ``directory``/gateway and /client; the first coordinator leads."""
    create_ca(directory / "ca", DOMAIN)
    issue(directory / "ca", directory / "gateway", f"spiffe://{DOMAIN}/gateway/g")
    mesh = FakeMesh()
    coordinators = []
    for number in range(size):
        tls = issue(directory / "ca", directory / f"c{number}", f"spiffe://{DOMAIN}/coordinator/c{number}")
        coordinators.append(FakeCoordinator(mesh, f"c{number}", tls))
    mesh.leader = coordinators[0]
    for coordinator in coordinators:
        await coordinator.start()
    try:
        yield mesh, coordinators
    finally:
        for coordinator in coordinators:
            await coordinator.stop()


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    """The whole, until the block ends."""
    users = directory / "users.json"
    admin = write_default_users(users)
    other = add_user(users, "other", "second", ["admin"])
    reader = add_user(users, "reader", "admin", ["reader"])
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    started = threading.Event()
    found: list[Stack] = []
    stop: list[Any] = []

    async def run() -> None:
        async with fake_mesh(directory) as (mesh, coordinators):
            config = GatewayConfig(public_url=url)
            tls = TlsFiles.in_directory(directory / "gateway")
            addresses = [one.address for one in coordinators]
            backend = MeshBackend(LeaderClient(addresses, tls, election_wait_s=ELECTION_WAIT_S))
            identity = EmbeddedIdentity(users, TokenSigner.from_key_file(directory / "token.key"), 3600)
            server = make_server(build_app(config, backend, identity), config)
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # not the main thread
            loop = asyncio.get_running_loop()
            found.append(Stack(url, mesh, coordinators, loop, admin, other, reader, directory))
            stop.append(lambda: setattr(server, "should_exit", True))
            started.set()
            await server.serve(sockets=[listening])
            await backend.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="api-stack")
    thread.start()
    try:
        assert started.wait(START_TIMEOUT_S)
        stack = found[0]
        for _ in range(100):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/healthz").raise_for_status()
                break
        yield stack
    finally:
        for end in stop:
            end()
        thread.join(START_TIMEOUT_S)
        listening.close()
