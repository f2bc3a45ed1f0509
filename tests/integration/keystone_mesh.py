"""A mesh whose gateway asks a real Keystone, and whose secrets lie in a real Barbican."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import tomli_w

from coriolis.etcd.embedded import free_port
from coriolis.keystone.service_account import ServiceAccount
from coriolis.keystone.trusts import Delegations
from tests.fault.mesh import ROOT, Mesh
from tests.lab.openstack_site import Account, Cloud

END = ("COMPLETED", "ERROR", "CANCELED")


def install_provider(folder: Path) -> None:
    """Announce ``trusting_provider`` by entry point, in a folder for PYTHONPATH."""
    info = folder / "trusting_provider-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trusting-provider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[coriolis.providers]\ntrusting = tests.integration.trusting_provider:TrustingProvider\n"
    )


def keystone_settings(cloud: Cloud, account: Account, folder: Path) -> dict[str, Any]:
    """The table ``[keystone]`` of gateways and coordinators."""
    password = folder / "keystone.password"
    password.touch(0o600)
    password.write_text(account.password)
    return {
        "auth_url": cloud.auth_url,
        "username": account.user,
        "password_file": str(password),
        "project_name": account.project,
        "region_name": cloud.region,
    }


@dataclass
class KeystoneMesh:
    """``service``: the mesh's own account, without the role admin."""

    mesh: Mesh
    cloud: Cloud
    service: Account
    delegations: Delegations
    url: str
    log: Path
    gateway_pid: int

    def client(self, who: Account, **auth: Any) -> httpx.Client:
        """Below ``/v1/<project>``, with a fresh token."""
        base = f"{self.url}/v1/{who.project_id}"
        return httpx.Client(base_url=base, headers={"X-Auth-Token": who.token(**auth)}, timeout=30)

    async def wait(self, who: Account, migration_id: str, condition: Any, timeout_s: float = 60) -> dict[str, Any]:
        """The migration as REST shows it, once ``condition`` holds."""
        with self.client(who) as client:
            end = time.monotonic() + timeout_s
            while True:
                answer = await asyncio.to_thread(client.get, f"/migrations/{migration_id}")
                found: dict[str, Any] = answer.json()["migration"]
                if condition(found):
                    return found
                told = [(t["task_type"], t["status"], [e["message"] for e in t["events"]]) for t in found["tasks"]]
                assert time.monotonic() < end, json.dumps([found["status"], found["waiting_for"], told], indent=1)
                await asyncio.sleep(0.2)

    def store_secret(self, who: Account, payload: str, name: str = "s") -> str:
        """The id of a new secret of Barbican."""
        answer = who.session().post(
            "/v1/secrets",
            json={"name": name, "payload": payload, "payload_content_type": "text/plain"},
            endpoint_filter={"service_type": "key-manager", "interface": "public"},
        )
        return str(answer.json()["secret_ref"].rpartition("/")[2])


@asynccontextmanager
async def keystone_mesh(
    cloud: Cloud,
    directory: Path,
    *packages: Path,
    agent_settings: Mapping[str, Mapping[str, Any]] | None = None,
    coordinators: int = 1,
) -> AsyncIterator[KeystoneMesh]:
    """Coordinators, two agents and a gateway as processes; ``packages``: more folders with providers."""
    extra = directory / "site-packages"
    install_provider(extra)
    service = cloud.account("service")
    settings = keystone_settings(cloud, service, directory)
    pythonpath = ":".join(map(str, (extra, *packages, ROOT)))
    async with Mesh(
        directory / "mesh",
        coordinators=coordinators,
        environ={"PYTHONPATH": pythonpath},
        coordinator_settings={"secret_store": "barbican", "keystone": settings},
        agent_settings=agent_settings,
    ) as mesh:
        listen = f"127.0.0.1:{free_port()}"
        config = directory / "gateway.toml"
        tls = str(mesh.certificate("gateway", "g").cert.parent)
        config.write_text(
            tomli_w.dumps(
                {
                    "listen": listen,
                    "coordinators": mesh.addresses,
                    "tls_dir": tls,
                    "auth": "keystone",
                    "keystone": settings,
                }
            )
        )
        log = directory / "mesh" / "gateway.log"
        with log.open("ab") as output:
            gateway = subprocess.Popen(  # noqa: ASYNC220  # it only starts; it is waited for in a thread
                [sys.executable, "-m", "coriolis.cli.main", "gateway", "--config", str(config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        account = ServiceAccount(_config(settings))
        try:
            await _answers(f"http://{listen}/healthz", log)
            yield KeystoneMesh(mesh, cloud, service, Delegations(account), f"http://{listen}", log, gateway.pid)
        finally:
            account.close()
            gateway.terminate()
            await asyncio.to_thread(gateway.wait, 20)


def _config(settings: dict[str, Any]) -> Any:
    from coriolis.config import KeystoneConfig

    return KeystoneConfig(**settings)


async def _answers(url: str, log: Path) -> None:
    end = time.monotonic() + 30
    async with httpx.AsyncClient() as client:
        while True:
            try:
                await client.get(url)
                return
            except httpx.TransportError:
                assert time.monotonic() < end, log.read_text()[-3000:]
                await asyncio.sleep(0.1)
