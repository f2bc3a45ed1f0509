"""F1: agent and leader die together around the moment a machine becomes the result: exactly one is ever started."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.fault.checkers.history import History
from tests.fault.mesh import Mesh
from tests.fault.workload import MIB, Machine, check_outcome, clear, new_site

RUNS = max(2, int(os.environ.get("CORIOLIS_FAULT_RUNS", "3")) // 3)
SEED = int(os.environ.get("CORIOLIS_FAULT_SEED", "1"))

pytestmark = [pytest.mark.fault, pytest.mark.lab, pytest.mark.timeout(120 + 90 * RUNS)]


async def test_agent_and_leader_die_around_the_commit(tmp_path: Path) -> None:
    async with (
        new_site() as site,
        Mesh(tmp_path / "mesh", coordinators=2) as mesh,
        History(mesh.etcd.endpoints) as history,
    ):
        for number in range(RUNS):
            rng = random.Random(f"commit-{SEED}-{number}")
            machine = Machine(tmp_path / f"o{number}", f"vm-commit-{number}", number, sizes=(2 * MIB,)).build()
            migration_id = await mesh.migrate(machine.request(site))
            await until_finalizing(mesh, migration_id)
            await asyncio.sleep(rng.uniform(0, 0.8))
            leader, _ = await mesh.leader()
            mesh.agents["site-b"].kill()
            if leader:
                mesh.coordinators[leader].kill()
            await asyncio.sleep(rng.uniform(0, 1))
            mesh.agents["site-b"].start()
            if leader:
                mesh.coordinators[leader].start()
            migration = await mesh.wait(migration_id, timeout_s=120)
            check_outcome(machine, site, migration)
            history.check()
            clear(site)


async def until_finalizing(mesh: Mesh, migration_id: str) -> None:
    """Until FINALIZE_INSTANCE_DEPLOYMENT has begun (or is over: then the kill comes after the end)."""
    for _ in range(600):
        for task in (await mesh.get(migration_id)).tasks:
            if task.task_type == "FINALIZE_INSTANCE_DEPLOYMENT" and task.status not in ("SCHEDULED", "PENDING"):
                return
        await asyncio.sleep(0.05)
    raise AssertionError("the migration never came to its end")
