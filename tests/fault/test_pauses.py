"""Processes that sleep through their replacement and wake up (B1, B2): they must change nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.fault.checkers import site as evidence
from tests.fault.checkers.history import History
from tests.fault.mesh import Mesh
from tests.fault.workload import READ_LIMIT, Machine, check_outcome, new_site, until_moving

pytestmark = [pytest.mark.fault, pytest.mark.lab, pytest.mark.timeout(400)]
LEADER_PAUSE_S = 25.0
"""Two lease times and five seconds."""


async def test_a_paused_leader_that_wakes_up_changes_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "origin", "vm-paused-leader", 1).build()
    async with (
        new_site() as site,
        Mesh(tmp_path / "mesh", etcd_nodes=3, coordinators=3, read_limit=READ_LIMIT) as mesh,
        History(mesh.etcd.endpoints) as history,
    ):
        migration_id = await mesh.migrate(machine.request(site))
        await until_moving(mesh, migration_id, 0.2)
        name, _ = await mesh.leader()
        old = mesh.coordinators[name]
        old.signal(signal.SIGSTOP)
        await asyncio.sleep(LEADER_PAUSE_S)
        after, _ = await mesh.leader()
        assert after not in ("", name)
        second = Machine(tmp_path / "origin-2", "vm-second", 2).build()
        running = await mesh.migrate(second.request(site))  # the new leader is at work when the old one wakes
        old.signal(signal.SIGCONT)
        migration = await mesh.wait(migration_id)
        assert (await mesh.wait(running)).status == "COMPLETED"
        await asyncio.sleep(3)
        history.check()
        assert evidence.starts(site.folder) == {"vm-paused-leader": 1, "vm-second": 1}
        assert migration.status == "COMPLETED"
        assert len(history.leaders) >= 2
        log = old.log.read_text()
        assert "stepped down" in log or "no longer leading" in log


async def test_a_paused_source_that_wakes_up_after_its_replacement_changes_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "origin", "vm-paused-source", 1).build()
    async with (
        new_site() as site,
        Mesh(tmp_path / "mesh", sites=("site-a", "site-b", "site-c"), read_limit=READ_LIMIT) as mesh,
        History(mesh.etcd.endpoints) as history,
    ):
        migration_id = await mesh.migrate(machine.request(site))
        await until_moving(mesh, migration_id, 0.3)
        source = next(
            task.host.split(",")[1]
            for task in (await mesh.get(migration_id)).tasks
            if task.task_type == "REPLICATE_DISKS"
        )
        agent = mesh.agents[source]
        asleep = [*agent.children(), agent.pid]
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        migration = await mesh.wait(migration_id, timeout_s=240)
        check_outcome(machine, site, migration)
        hosts = next(task.host for task in migration.tasks if task.task_type == "REPLICATE_DISKS")
        assert source not in hosts.split(",")
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(10)
        assert not agent.children(), "the woken task was ended"
        check_outcome(machine, site, await mesh.get(migration_id))
        history.check()
