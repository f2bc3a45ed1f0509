"""Processes die with kill -9 at random moments; every migration completes, byte for byte, started once.

CORIOLIS_FAULT_RUNS sets the kills of each kind (3 here, 10 in CI, 100 by ``make fault``); CORIOLIS_FAULT_SEED repeats.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.checkers.history import History
from tests.fault.checkers.progress import ProgressWatch
from tests.fault.mesh import Mesh, Process, summary
from tests.fault.workload import READ_LIMIT, Machine, Site, check_outcome, clear, new_site, until_moving

RUNS = int(os.environ.get("CORIOLIS_FAULT_RUNS", "3"))
SEED = int(os.environ.get("CORIOLIS_FAULT_SEED", "1"))
RESENT_LIMIT = 64 << 20
NEW_LEADER_S = 25.0

pytestmark = [
    pytest.mark.fault,
    pytest.mark.lab,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120 + 90 * RUNS),
]


@dataclass
class Lab:
    mesh: Mesh
    site: Site
    history: History
    folder: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder = tmp_path_factory.mktemp("kills")
    async with (
        new_site() as site,
        Mesh(folder / "mesh", etcd_nodes=3, coordinators=3, read_limit=READ_LIMIT) as mesh,
        History(mesh.etcd.endpoints) as history,
    ):
        yield Lab(mesh, site, history, folder)


Fault = Callable[[Lab, random.Random, str], Awaitable[None]]


async def kill_source_child(lab: Lab, rng: random.Random, migration_id: str) -> None:
    """Any task process of the origin's agent, at a random byte."""
    agent = lab.mesh.agents["site-a"]
    for _ in range(100):
        children = agent.children()
        if children:
            os.kill(rng.choice(children), 9)
            return
        await asyncio.sleep(0.02)


async def kill_destination_agent(lab: Lab, rng: random.Random, migration_id: str) -> None:
    """The whole agent; its tasks die with it. It comes back after a moment."""
    await restart(lab.mesh.agents["site-b"], rng.uniform(0, 2))


async def restart(process: Process, pause_s: float) -> None:
    process.kill()
    await asyncio.sleep(pause_s)
    process.start()


async def kill_leader(lab: Lab, rng: random.Random, migration_id: str) -> None:
    """The leading coordinator; another one must lead within 25 s."""
    name, _ = await lab.mesh.leader()
    if not name:
        return
    leader = lab.mesh.coordinators[name]
    leader.kill()
    began = time.monotonic()
    while True:
        now, _ = await lab.mesh.leader()
        if now and now != name:
            break
        assert time.monotonic() - began <= NEW_LEADER_S, "no new leader within 25 s"
        await asyncio.sleep(0.2)
    leader.start()


async def kill_etcd_node(lab: Lab, rng: random.Random, migration_id: str) -> None:
    """One node of three; in half of the runs the raft leader."""
    node = await lab.mesh.etcd.raft_leader() if rng.random() < 0.5 else rng.choice(lab.mesh.etcd.nodes)
    await node.kill()
    await asyncio.sleep(rng.uniform(0.5, 3))
    await lab.mesh.etcd.start(node)
    await lab.mesh.etcd.wait_ready(node)


@pytest.mark.parametrize("fault", [kill_source_child, kill_destination_agent, kill_leader, kill_etcd_node])
async def test_kills_at_random_moments(lab: Lab, fault: Fault) -> None:
    name = fault.__name__.replace("_", "-")
    for number in range(RUNS):
        seed = SEED * 1000 + number
        rng = random.Random(f"{name}-{seed}")
        machine = Machine(lab.folder / f"{name}-{number}", f"vm-{name}-{number}", seed).build()
        migration_id = await lab.mesh.migrate(machine.request(lab.site))
        async with ProgressWatch(lab.mesh, migration_id) as progress:
            await strike(lab, fault, rng, migration_id)
            migration = await lab.mesh.wait(migration_id, timeout_s=120)
        reproduce = f"CORIOLIS_FAULT_SEED={SEED} CORIOLIS_FAULT_RUNS={RUNS} pytest tests/fault/test_kills.py -k {name}"
        try:
            check_outcome(machine, lab.site, migration)
            check_resent(machine, migration)
            lab.history.check()
            progress.check()
        except AssertionError as broken:
            raise AssertionError(f"run {number}: {broken}\n{summary(migration)}\nreproduce: {reproduce}") from broken
        clear(lab.site)
        machine.discard()


async def strike(lab: Lab, fault: Fault, rng: random.Random, migration_id: str) -> None:
    """Three times out of four in the middle of the data, else anywhere between acceptance and end."""
    if rng.random() < 0.75:
        await until_moving(lab.mesh, migration_id, rng.uniform(0.02, 0.98))
    else:
        await asyncio.sleep(rng.uniform(0, 6))
    await fault(lab, rng, migration_id)


def check_resent(machine: Machine, migration: job_pb2.Migration) -> None:
    """One fault may cost what lies beyond the durable point of each disk: at most 64 MiB, not what came before it."""
    for disk in migration.disks:
        size = machine.sizes[int(disk.disk_id.rpartition("-")[2])]
        assert disk.sent_bytes <= size + RESENT_LIMIT, f"{disk.disk_id}: {disk.sent_bytes} bytes sent of {size}"
