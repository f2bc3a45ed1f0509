"""The gateway in front of real coordinators and a real etcd: what needs no cloud."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest_asyncio

from coriolis.security.pki import issue
from gateway.users_file import Credentials, write_default_users
from tests.api.stack import BODY
from tests.fault.mesh import DOMAIN, ROOT, Mesh

READY_TIMEOUT_S = 40


@pytest_asyncio.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path / "mesh", coordinators=2, sites=("site-a",)) as running:
        yield running


def log_in(url: str, who: Credentials) -> str:
    user = {"name": who.username, "domain": {"name": "Default"}, "password": who.password}
    scope = {"project": {"id": who.project_id}}
    identity = {"methods": ["password"], "password": {"user": user}}
    return httpx.post(f"{url}/v3/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}).headers[
        "X-Subject-Token"
    ]


def exercise(mesh: Mesh, directory: Path) -> None:
    tls = issue(mesh.dir / "ca", directory / "gateway", f"spiffe://{DOMAIN}/gateway/g")
    who = write_default_users(directory / "users.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "coriolis.cli.main", "gateway", "--listen", address]
    command += ["--tls-dir", str(tls.cert.parent), "--users-file", str(directory / "users.json")]
    command += ["--token-key-file", str(directory / "token.key")]
    for coordinator in mesh.addresses:
        command += ["--coordinator", coordinator]
    with (directory / "gateway.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        url = f"http://{address}"
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport, timeout=READY_TIMEOUT_S) as client:
            assert client.get(f"{url}/readyz").status_code == 200
            client.headers["X-Auth-Token"] = log_in(url, who)
            client.base_url = httpx.URL(f"{url}/v1/{who.project_id}")
            check(client)
    finally:
        process.terminate()
        assert process.wait(10) == 0, (directory / "gateway.log").read_text()


def check(client: httpx.Client) -> None:
    services = client.get("/services").json()["services"]
    assert sorted(one["id"] for one in services) == ["c0", "c1", "site-a"]
    assert [one["specs"]["leader"] for one in services if one["binary"] == "coriolis-coordinator"].count(True) == 1
    assert "image" in client.get("/providers").json()["providers"]
    assert "connection_info_schema" in client.get("/providers/image/schemas/16").json()["schemas"]
    made = client.post("/secrets", json={"secret": {"name": "lab", "payload": {"password": "open sesame"}}})
    assert made.status_code == 200, made.text
    secret = made.json()["secret"]
    assert client.get("/secrets").json()["secrets"] == [secret]
    assert client.delete(f"/secrets/{secret['id']}").status_code == 204
    assert client.get("/migrations").json() == {"migrations": []}
    limit = client.put("/bandwidth-limits/agent/site-a", json={"bandwidth_limit": {"rate": "200Mbit/s"}})
    assert limit.status_code == 200, limit.text
    assert client.get("/bandwidth-limits").json()["bandwidth_limits"] == [limit.json()["bandwidth_limit"]]
    assert client.put("/bandwidth-limits/agent/b", json={"bandwidth_limit": {"rate": "0"}}).status_code == 404
    assert client.delete("/bandwidth-limits/agent/site-a").status_code == 204
    assert client.get("/bandwidth-limits").json() == {"bandwidth_limits": []}
    smoke = {"migration": {**BODY["migration"], "origin": {"type": "smoke", "connection_info": {}}}}
    refused = client.post("/migrations", json=smoke)
    assert (refused.status_code, refused.json()["error"]["fault"]) == (400, "badRequest")
    assert "origin.type" in refused.json()["error"]["message"]
    absent = client.get("/migrations/7d0f1c5e-0000-4000-8000-00000000dead")
    assert absent.status_code == 404


async def test_through_the_whole_control_plane(mesh: Mesh, tmp_path: Path) -> None:
    import asyncio

    await asyncio.to_thread(exercise, mesh, tmp_path)
