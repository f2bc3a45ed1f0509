"""A real OpenStack as destination, and kill -9 at each request that makes or removes something there.

Through a gateway with Keystone, so that every job has a trust. ``openstack_seeds`` says what a seed does. Half of
CORIOLIS_FAULT_RUNS seeds, at least one, from CORIOLIS_FAULT_SEED (0) on; a failure prints the line that repeats it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

pytest.importorskip("openstack")
import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.providers.openstack.rest import ask, listed
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.contract.openstack_destination import FLAVOR, NETWORK, Project
from tests.fault.checkers.history import History
from tests.fault.checkers.openstack import GONE_S, Evidence, TrustWatch
from tests.fault.checkers.progress import ProgressWatch
from tests.fault.mesh import summary
from tests.fault.openstack_gate import Gates, Meeting, gates_before, holder_of
from tests.fault.openstack_seeds import Ending, Seed, Victim, seed_of
from tests.fault.test_kills import NEW_LEADER_S
from tests.integration.keystone_mesh import END, KeystoneMesh, keystone_mesh
from tests.lab.openstack_site import Account, Cloud

SEEDS = max(1, int(os.environ.get("CORIOLIS_FAULT_RUNS", "3")) // 2)
FIRST = int(os.environ.get("CORIOLIS_FAULT_SEED", "0"))
SIZE = (3 << 20) + 512
WHALE = "coriolis-whale"
MAC, TAKEN_MAC = "52:54:00:77:01:01", "52:54:00:77:01:02"
MEET_S, END_S = 120.0, 300.0
MAX_LATE_S = 8.0
"""A cloud that is so late with a request whose sender died is about as slow as the mesh is in asking again."""
REPEAT = "CORIOLIS_FAULT_RUNS=2 pytest -m openstack tests/fault/test_openstack_kills.py"

pytestmark = [
    pytest.mark.fault,
    pytest.mark.lab,
    pytest.mark.openstack,
    pytest.mark.openstack_in_ci,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(900),
]


@dataclass
class Lab:
    """``who`` asks for the migrations. ``foreign``: ports that stand in the project from the beginning."""

    running: KeystoneMesh
    gates: Gates
    project: Project
    who: Account
    evidence: Evidence
    trusts: TrustWatch
    history: History
    folder: Path
    foreign: set[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(whole_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder = tmp_path_factory.mktemp("openstack-kills")
    (folder / "staging").mkdir()
    project = await asyncio.to_thread(Project, whole_cloud)
    foreign = await asyncio.to_thread(prepare, project)
    who = whole_cloud.account("member", "creator", project_id=project.account.project_id)
    settings = {
        "staging_dir": str(folder / "staging"),
        "cinder_drivers": ["nfs"],
        "cinder_mount_dir": str(project.mount_dir),
    }
    sites = dict.fromkeys(("site-a", "site-b"), settings)
    async with (
        gates_before(whole_cloud) as gates,
        keystone_mesh(gates.cloud, folder, agent_settings=sites, coordinators=3) as running,
        History(running.mesh.etcd.endpoints) as history,
        TrustWatch(whole_cloud, running.service.user_id) as trusts,
    ):
        yield Lab(running, gates, project, who, Evidence(whole_cloud, project), trusts, history, folder, foreign)


def prepare(project: Project) -> set[str]:
    """A flavor that no host can hold, a way for floating IPs, and somebody's port with a MAC; returns its id."""
    flavor = {"name": WHALE, "ram": 49000, "vcpus": 1, "disk": 0}
    if WHALE not in [one["name"] for one in listed(project._admin, "compute", "/flavors", "flavors")]:
        ask(project._admin, "compute", "POST", "/flavors", {"flavor": flavor})
    networks = {one["name"]: one for one in listed(project.own, "network", "/networks", "networks")}
    gateway = {"router": {"name": "r", "external_gateway_info": {"network_id": networks["public"]["id"]}}}
    router = ask(project.own, "network", "POST", "/routers", gateway)["router"]
    interface = {"subnet_id": networks[NETWORK]["subnets"][0]}
    ask(project.own, "network", "PUT", f"/routers/{router['id']}/add_router_interface", interface)
    body = {"port": {"network_id": networks[NETWORK]["id"], "mac_address": TAKEN_MAC, "name": "somebody's"}}
    return {str(ask(project.own, "network", "POST", "/ports", body)["port"]["id"])}


def origin(folder: Path, name: str, seed: Seed) -> bytes:
    """A machine with one disk; its content. One that shall fail has a second NIC, with somebody else's MAC."""
    content = random.Random(seed.number).randbytes(SIZE)
    (folder / f"{name}.raw").write_bytes(content)
    macs = [MAC, TAKEN_MAC] if seed.case.ending is Ending.FAILED else [MAC]
    lines = [f'name = "{name}"', "num_cpu = 1", "memory_mb = 64"]
    lines += ["[[disks]]", f'file = "{name}.raw"', 'format = "raw"']
    for mac in macs:
        lines += ["[[nics]]", 'network_name = "lan"', f'mac_address = "{mac}"']
    (folder / f"{name}.toml").write_text("\n".join(lines) + "\n")
    return content


def request(lab: Lab, folder: Path, name: str, seed: Seed) -> dict[str, Any]:
    """The destination has no credentials: the caller's token serves."""
    case = seed.case
    target = {
        "data_path": "upload" if case.way == "upload" else "attach",
        "flavor_name": WHALE if case.ending is Ending.NO_HOST else FLAVOR,
        "network_map": {"lan": NETWORK},
        "floating_ip_pool": "public",
        "keep_mac": True,
        "as_template": case.way == "template",
    }
    secret = lab.running.store_secret(lab.who, json.dumps({"path": str(folder)}))
    return {
        "migration": {
            "origin": {"type": "image", "connection_info": {"secret_id": secret}},
            "destination": {"type": "openstack", "target_environment": target},
            "instances": [name],
            "skip_os_morphing": True,
            "replication_count": 1,
        }
    }


async def rest(lab: Lab, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    """A call of the gateway; while nobody leads it is repeated."""
    deadline = time.monotonic() + 2 * NEW_LEADER_S
    with lab.running.client(lab.who) as client:
        while True:
            answer = await asyncio.to_thread(client.request, method, path, json=body)
            if answer.status_code != 503:
                return answer
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.5)


async def strike(lab: Lab, seed: Seed, meeting: Meeting, rng: random.Random) -> None:
    """Kill, let the request go on, and bring back what died."""
    mesh = lab.running.mesh
    site, child = meeting.reached.result()
    agent, leader = mesh.agents[site], ""
    if seed.victim in (Victim.LEADER, Victim.BOTH):
        leader, _ = await mesh.leader()
        assert leader, "nobody leads although nobody died"
        mesh.coordinators[leader].kill()
    if seed.victim in (Victim.AGENT, Victim.BOTH):
        agent.kill()
    if seed.victim is Victim.CHILD:
        os.kill(child, signal.SIGKILL)
    meeting.go_on.set()
    if not agent.alive:
        await asyncio.sleep(rng.uniform(0, 2))
        agent.start()
    if leader:
        await another_leads(lab, leader)
        lab.trusts.healed()
        mesh.coordinators[leader].start()


async def another_leads(lab: Lab, dead: str) -> None:
    deadline = time.monotonic() + NEW_LEADER_S
    while (await lab.running.mesh.leader())[0] in ("", dead):
        assert time.monotonic() < deadline, f"no new leader within {NEW_LEADER_S:.0f} s"
        await asyncio.sleep(0.2)


def who_asks(lab: Lab, port: int) -> tuple[str, int]:
    """(agent, pid of its task) that has the connection with that port."""
    for site, agent in lab.running.mesh.agents.items():
        pid = holder_of(port, agent.children()) if agent.alive else 0
        if pid:
            return site, pid
    raise AssertionError("a request by none of the agents' tasks")


@pytest.mark.parametrize("number", range(FIRST, FIRST + SEEDS))
async def test_seed(lab: Lab, number: int) -> None:
    seed = seed_of(number)
    rng, name = random.Random(number), f"vm-{number}"
    folder = lab.folder / f"origin-{number}"
    folder.mkdir()
    content = origin(folder, name, seed)
    lab.gates.who = lambda port: who_asks(lab, port)
    case = seed.case
    at = case.boundary
    met = lab.gates.meet(at.method, at.path, seed.moment, body=at.body, late_s=rng.uniform(1, MAX_LATE_S))
    before, began = set(await lab.trusts.look()), time.monotonic()
    answer = await rest(lab, "POST", "/migrations", request(lab, folder, name, seed))
    assert answer.status_code == 200, answer.text
    migration_id = answer.json()["migration"]["id"]
    (trust,) = await lab.trusts.look() - before
    try:
        async with ProgressWatch(lab.running.mesh, migration_id, lab.who.project_id) as progress:
            await asyncio.wait_for(met.reached, MEET_S)
            await strike(lab, seed, met, rng)
            if case.ending is Ending.CANCELED:
                cancelled = await rest(lab, "POST", f"/migrations/{migration_id}/actions", {"cancel": None})
                assert cancelled.status_code == 204, cancelled.text
            ended = await until_end(lab, migration_id)
        at_end = lab.trusts.ended[trust] = time.monotonic()
        await asyncio.wait_for(met.over.wait(), MAX_LATE_S + MEET_S)  # what comes late shall be judged too
        clean = await lab.evidence.until_clean(at_end, lab.foreign, name if case.way == "template" else "")
        ended = await without_residue(lab, migration_id, at_end)
        check_outcome(lab, seed, name, content, ended)
        lab.history.check()
        progress.check()
        assert not lab.gates.broken
    except (AssertionError, TimeoutError) as broken:
        shown = summary(await lab.running.mesh.get(migration_id, lab.who.project_id))
        shown += "\nlast calls:\n  " + "\n  ".join(lab.gates.calls[-20:])
        raise AssertionError(f"{seed}: {broken}\n{shown}\nreproduce: CORIOLIS_FAULT_SEED={number} {REPEAT}") from broken
    finally:
        lab.gates.open()
        await asyncio.to_thread(clear, lab)
        shutil.rmtree(folder)
    print(f"{seed}; ended {ended.status} after {at_end - began:.0f} s, clean {clean:.1f} s later")


async def until_end(lab: Lab, migration_id: str) -> job_pb2.Migration:
    deadline = time.monotonic() + END_S
    while (found := await lab.running.mesh.get(migration_id, lab.who.project_id)).status not in END:
        assert time.monotonic() < deadline, f"not ended after {END_S:.0f} s"
        await asyncio.sleep(0.3)
    return found


async def without_residue(lab: Lab, migration_id: str, at_end: float) -> job_pb2.Migration:
    """Of a job in which somebody died the janitor takes a second look after its end."""
    while (found := await lab.running.mesh.get(migration_id, lab.who.project_id)).residue:
        assert time.monotonic() < at_end + GONE_S, f"I4: residue {GONE_S:.0f} s after the end: {list(found.residue)}"
        await asyncio.sleep(0.5)
    return found


def check_outcome(lab: Lab, seed: Seed, name: str, content: bytes, ended: job_pb2.Migration) -> None:
    """The end that was to come; one machine with the origin's bytes, or nothing at all."""
    case = seed.case
    wanted = {Ending.COMPLETED: "COMPLETED", Ending.CANCELED: "CANCELED"}.get(case.ending, "ERROR")
    assert ended.status == wanted, f"ended {ended.status}, not {wanted}"
    standing, digest = lab.evidence.listing(), hashlib.sha256(content).hexdigest()
    staged = [str(one) for one in (lab.folder / "staging").rglob("*") if one.is_file()]
    assert not staged, f"I4: staged files left: {staged}"
    ever = lab.evidence.servers_ever(name)
    launched = [one["id"] for one in ever if one["OS-SRV-USG:launched_at"]]
    shown = [(one["id"], one["status"], one["OS-SRV-USG:launched_at"]) for one in ever]
    if case.ending is not Ending.COMPLETED:
        assert not launched, f"I2: a machine was started of a job that ended {ended.status}: {shown}"
        left = {kind: list(things) for kind, things in standing.items() if set(things) - lab.foreign}
        assert not left, f"I4: {left}"
        return
    if case.way == "template":
        assert not ever, f"I2: servers for a template: {shown}"
        ((image, document),) = standing["images"].items()
        assert document["status"] == "active"
        assert lab.evidence.image_digest(image, SIZE) == digest, "I1: the image"
        assert not standing["volumes"]
        return
    assert len(ever) == len(launched) == 1, f"I2: servers that ever were: {shown}"
    ((server, document),) = standing["servers"].items()
    assert (server, document["status"], document["name"]) == (launched[0], "ACTIVE", name)
    ((volume, _),) = standing["volumes"].items()
    assert lab.evidence.volume_digest(volume, SIZE) == digest, "I1: the volume"
    ((_, port),) = ((key, one) for key, one in standing["ports"].items() if key not in lab.foreign)
    assert (port["mac_address"], port["device_id"]) == (MAC, server)
    ((_, address),) = standing["floatingips"].items()
    assert address["port_id"] == port["id"]


def clear(lab: Lab) -> None:
    """Back to an empty project; Project.clear() would take somebody's port too."""
    own, standing = lab.project.own, lab.evidence.listing()
    services = {"servers": "compute", "floatingips": "network", "ports": "network", "images": "image"}
    for kind, service in services.items():
        for one in set(standing[kind]) - lab.foreign:
            lab.project._delete(service, f"/{kind}/{one}")
    lab.project._until(lambda: not listed(own, "compute", "/servers", "servers"))
    lab.project._until(lab.project._no_volumes)


async def test_no_trust_is_left(lab: Lab) -> None:
    """Of all jobs of this file: each trust went within 120 s of the end of its job."""
    assert lab.trusts.ended
    await lab.trusts.check()
    print(f"trusts outlived their jobs by at most {max(lab.trusts.lasted.values()):.0f} s")
