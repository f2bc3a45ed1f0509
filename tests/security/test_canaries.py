"""I9: the secrets of a migration appear nowhere: logs, etcd with its history, journals, processes, answers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb
from tests.fault.mesh import PROJECT, ROOT, Mesh, endpoint, summary
from tests.integration.keystone_mesh import END, keystone_mesh
from tests.integration.mesh_calls import Sites, put_secret, watch
from tests.lab.openstack_site import Cloud
from tests.security.canaries import encodings, hits_in, hits_in_files, hits_in_processes, new_canary

SAMPLE_S = 0.02
MAX_LOOKS = 3000


def install_provider(folder: Path) -> None:
    """Announce the test's provider by entry point, in a folder for PYTHONPATH."""
    info = folder / "canary_provider-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: canary-provider\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[coriolis.providers]\ncanary = tests.security.canary_provider:CanaryProvider\n"
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    extra = tmp_path_factory.mktemp("site-packages")
    install_provider(extra)
    directory = tmp_path_factory.mktemp("mesh")
    async with Mesh(directory, environ={"PYTHONPATH": f"{extra}:{ROOT}"}) as running:
        yield running


@dataclass
class Secrets:
    """Canaries of one migration, by name, and where they were seen while it ran."""

    canaries: dict[str, str] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)

    def fresh(self, name: str) -> str:
        self.canaries[name] = new_canary()
        return self.canaries[name]

    def connection(self, side: str, path: Path, fail: str = "") -> dict[str, str]:
        return {
            "path": str(path),
            "password": self.fresh(f"{side} password"),
            "phrase": self.fresh(f"{side} phrase"),
            "fail": fail,
        }

    async def look_at_processes(self, mesh: Mesh) -> None:
        """Sample every process of the mesh until cancelled: task processes live for moments only."""
        for _ in range(MAX_LOOKS):
            parents = [*mesh.coordinators.values(), *mesh.agents.values()]
            pids = [pid for parent in parents for pid in (parent.pid, *parent.children())]
            self.hits += hits_in_processes(pids, self.canaries)
            await asyncio.sleep(SAMPLE_S)

    async def look_at_answers(self, mesh: Mesh, migration_id: str) -> None:
        listed = await mesh.call("ListMigrations", pb.ListMigrationsRequest(project_id=PROJECT, with_tasks=True))
        answers = [await mesh.get(migration_id), listed, *await watch(mesh, migration_id)]
        for answer in answers:
            self.hits += hits_in(type(answer).__name__, answer.SerializeToString(), self.canaries)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fail", ["", "denied", "crash"])
@pytest.mark.parametrize("by", ["value", "secret_id"])
async def test_no_secret_of_a_migration_is_left_or_shown_anywhere(
    mesh: Mesh, tmp_path: Path, by: str, fail: str
) -> None:
    sites, seen = Sites(tmp_path), Secrets()
    # the positive controls: public texts that must be found, or the search itself is broken
    control = {"notes": new_canary(), "instance": f"vm-{secrets.token_urlsafe(24)}"}
    described = sites.origin / "vm.toml"
    text = described.read_text().replace('"vm"', json.dumps(control["instance"]))
    (sites.origin / f"{control['instance']}.toml").write_text(text)
    described.unlink()
    origin = seen.connection("origin", sites.origin, fail)
    destination = seen.connection("destination", sites.destination)
    if by == "secret_id":
        origin = {"secret_id": await put_secret(mesh, origin)}
        destination = {"secret_id": await put_secret(mesh, destination)}
    request = sites.request(
        origin=endpoint("canary", origin),
        destination=endpoint("canary", destination, {"network_map": {"VM Network": "x"}}),
        instances=[control["instance"]],
        notes=control["notes"],
    )
    looking = asyncio.create_task(seen.look_at_processes(mesh))
    migration_id = await mesh.migrate(request)
    migration = await mesh.wait(migration_id)
    looking.cancel()
    assert migration.status == ("ERROR" if fail else "COMPLETED"), summary(migration)
    await seen.look_at_answers(mesh, migration_id)
    seen.hits += hits_in_files([mesh.dir], seen.canaries)
    assert not seen.hits

    found = hits_in_files([mesh.dir], control)
    assert any("/etcd/" in hit and "notes" in hit for hit in found), "the search does not read etcd"
    assert any("site-a.log" in hit and "instance" in hit for hit in found), "the search does not read logs"
    assert hits_in("answer", migration.SerializeToString(), control)


FERNET = re.compile(rb"gAAAAA[A-Za-z0-9_-]{80,}")
"""Keystone's tokens, also those that no test ever saw."""


def tokens_in_files(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and FERNET.search(path.read_bytes())]


@pytest.mark.lab
async def test_nothing_of_keystone_and_barbican_is_left_or_shown_anywhere(
    identity_cloud: Cloud, tmp_path: Path
) -> None:
    """Passwords in a Barbican secret, the caller's token, the job's trust and its tokens, the service's password."""
    sites, seen, extra = Sites(tmp_path), Secrets(), tmp_path / "extra"
    install_provider(extra)
    async with keystone_mesh(identity_cloud, tmp_path / "keystone", extra) as running:
        who = identity_cloud.account("member", "creator")
        seen.canaries["service's password"] = running.service.password
        seen.canaries["user's password"] = who.password
        secret = running.store_secret(who, json.dumps(seen.connection("origin", sites.origin)))
        running.store_secret(who, json.dumps({"path": str(sites.destination), "more": seen.fresh("place")}), "place")
        body = {
            "origin": {"type": "canary", "connection_info": {"secret_id": secret}},
            "destination": {"type": "trusting", "target_environment": {"network_map": {"VM Network": "x"}}},
            "instances": ["vm"],
            "skip_os_morphing": True,
            "notes": f"gAAAAA{'control' * 20}",
        }
        looking = asyncio.create_task(seen.look_at_processes(running.mesh))
        with running.client(who) as client:
            seen.canaries["caller's token"] = client.headers["X-Auth-Token"]
            answers = [client.post("/migrations", json={"migration": body})]
            migration_id = answers[0].json()["migration"]["id"]
            for number, trust in enumerate(await running.delegations.mine()):
                seen.canaries[f"trust {number}"] = trust
            granted = await running.delegations.delegated(trust)
            seen.canaries["token of the trust"] = granted.token
            ended = await running.wait(who, migration_id, lambda found: found["status"] in END)
            looking.cancel()
            answers += [client.get(f"/migrations/{migration_id}"), client.get("/migrations/detail")]
        assert ended["status"] == "COMPLETED", ended["tasks"]
        seen.hits += hits_in_processes([running.gateway_pid], seen.canaries)
        for answer in answers:
            seen.hits += hits_in("answer", answer.content, seen.canaries)
        seen.hits += hits_in_files([running.mesh.dir], seen.canaries)
        assert not seen.hits
        with_tokens = tokens_in_files(running.mesh.dir)
        assert with_tokens, "the search does not find the control in etcd"
        assert all("/etcd/" in path for path in with_tokens), with_tokens
        found = {match for path in with_tokens for match in FERNET.findall(Path(path).read_bytes())}
        assert all(match.startswith(b"gAAAAAcontrol") for match in found), len(found)


def test_the_search_finds_every_way_of_writing_a_secret(tmp_path: Path) -> None:
    canary = new_canary()
    for shift in range(3):
        for around in (b"", b"x" * shift):
            text = base64.b64encode(b"p" * shift + canary.encode() + around)
            assert hits_in("here", b"..." + text + b"...", {"c": canary}), (shift, around)
    for text in (canary.encode(), quote(canary, safe="").encode(), canary.encode().hex().encode()):
        assert hits_in("here", b"..." + text, {"c": canary})
    assert hits_in("here", json.dumps({"a": canary}).encode(), {"c": canary})
    assert hits_in("here", json.dumps(json.dumps({"a": canary})).encode(), {"c": canary})
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "log").write_bytes(b"a" * 5000 + canary.encode())
    assert len(hits_in_files([tmp_path], {"c": canary})) >= 1
    assert hits_in_files([tmp_path], {"c": new_canary()}) == []
    assert len(encodings(canary)) >= 16
