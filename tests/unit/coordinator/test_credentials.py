"""Credentials that a job loses and gets again, and trusts that nobody needs any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coriolis.coordinator.events import (
    AssignPart,
    Begin,
    CancelRequested,
    Event,
    PartCompleted,
    PartFailed,
    PartStarted,
    Placed,
    PlacementWaits,
)
from coriolis.coordinator.placement import NotPlaced
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.scheduler import MAX_ATTEMPTS, step
from coriolis.coordinator.store import MemoryStore
from coriolis.coordinator.trust_sweep import GRACE_S, SWEEP_S, TrustSweep
from coriolis.coordinator.vault import Vault
from coriolis.errors import CredentialsLost, Denied, InvalidInput, Throttled, Unavailable
from coriolis.model.job import Endpoint, InstanceRun, Migration, run_status, waits_for_credentials
from coriolis.model.task import Role, Side, Task, TaskStatus
from coriolis.security.secrets import FileSecretStore, SecretBox
from tests.unit.coordinator.test_scheduler import NOW, migration
from tests.unit.coordinator.world import ScriptedAgents, driving


def running_task() -> tuple[InstanceRun, Task]:
    """A run whose first task was given to an agent."""
    [run] = plan_migration(migration())
    run, _ = step(run, Begin(), NOW)
    task = next(task for task in run.tasks if task.status is TaskStatus.PENDING)
    run, _ = step(run, Placed(task.id, {Role.SINGLE: "agent"}), NOW)
    return run, run.task(task.id)


def lost(task: Task) -> PartFailed:
    return PartFailed(task.id, task.generation, Role.SINGLE, "credentials_lost", "no trust", True)


def test_lost_credentials_count_against_nothing_however_often() -> None:
    run, task = running_task()
    for _ in range(3 * MAX_ATTEMPTS):
        run, _ = step(run, lost(run.task(task.id)), NOW)
        assert waits_for_credentials(run.task(task.id))
        assert run.task(task.id).attempts == 0
        run, _ = step(run, Placed(task.id, {Role.SINGLE: "agent"}), NOW)
        assert run.task(task.id).error_code == ""
    assert not run.failed


def test_waiting_is_said_once_and_ends_with_another_reason() -> None:
    run, task = running_task()
    run, _ = step(run, lost(task), NOW)
    for _ in range(5):
        run, _ = step(run, PlacementWaits(task.id, "no trust works", "credentials_lost"), NOW)
    assert [event.message for event in run.task(task.id).events].count("no trust works") == 1
    run, _ = step(run, PlacementWaits(task.id, "no agent is connected"), NOW)
    assert not waits_for_credentials(run.task(task.id))


def test_a_waiting_task_is_cancelled_at_once() -> None:
    run, task = running_task()
    run, _ = step(run, lost(task), NOW)
    run, _ = step(run, CancelRequested(), NOW)
    assert run.task(task.id).status is TaskStatus.UNSCHEDULED
    assert run_status(run) == "CANCELED"


class Withholding(ScriptedAgents):
    """Places nothing while credentials are lost or Keystone is away."""

    def __init__(self) -> None:
        super().__init__(done)
        self.refusals: list[Exception] = []

    async def place(self, migration: Migration, run: InstanceRun, task: Task) -> Placed | NotPlaced:  # type: ignore[override]
        if self.refusals:
            raise self.refusals.pop()
        return await super().place(migration, run, task)


def done(wish: Migration, run: InstanceRun, task: Task, command: AssignPart) -> list[Event]:
    return [
        PartStarted(task.id, command.generation, command.role, 1),
        PartCompleted(task.id, command.generation, command.role, {}),
    ]


@pytest.mark.parametrize(
    "refusal",
    [
        CredentialsLost("no trust"),
        Unavailable("Keystone cannot be reached"),
        Throttled("Keystone is asked too often", retry_after_s=5),
    ],
)
async def test_a_task_that_cannot_be_placed_without_credentials_waits_for_them(refusal: Exception) -> None:
    wish, agents, store = migration(passes=1, morph=False), Withholding(), MemoryStore()
    agents.refusals = [refusal] * 20
    async with driving(store, agents) as driver:
        await driver.submit(wish, await store.create(wish, plan_migration(wish), None))
        async with asyncio.timeout(10):
            while agents.refusals:  # noqa: ASYNC110  # nothing tells when a refusal was taken
                await asyncio.sleep(0.01)
        told = [[event.message for event in task.events] for task in driver.runs(wish.id)[0].tasks]
        assert {messages.count(str(refusal)) for messages in told} == {0, 1}
        assert not any(task.status is TaskStatus.ERROR for task in driver.runs(wish.id)[0].tasks)
        renewed = msgspec.structs.replace(wish, sealed_trust="another")
        await driver.replace(renewed)
        assert driver.migration_of(driver.runs(wish.id)[0].tasks[0].id) == renewed
        assert (await store.load()).migrations == (renewed,)


class PhonyTrusts:
    """Keystone's trusts in memory: what is listed, what is removed, who cannot be."""

    def __init__(self, *listed: str) -> None:
        self.listed = list(listed)
        self.stuck: set[str] = set()

    async def mine(self) -> list[str]:
        return list(self.listed)

    async def remove(self, trust_id: str) -> None:
        if trust_id in self.stuck:
            raise CredentialsLost("its owner is disabled")
        self.listed.remove(trust_id)

    async def connection_info(self, trust_id: str) -> dict[str, Any]:
        return {"project_id": "p", "token": f"token of {trust_id}"}

    async def secret(self, trust_id: str, secret: str) -> bytes:
        return b'{"path": "/x"}' if trust_id else b""

    def forget(self, trust_id: str) -> None:
        return


class SettableClock:
    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed


def vault(directory: Path, trusts: Any = None, *, barbican: bool = False) -> Vault:
    box = SecretBox(b"k" * 32)
    return Vault(box, FileSecretStore(directory, box), trusts, barbican=barbican)


async def test_trusts_of_ended_and_unknown_jobs_go_and_others_stay(tmp_path: Path) -> None:
    trusts, clock, store = PhonyTrusts("live", "ended", "nobodys", "stuck"), SettableClock(), MemoryStore()
    trusts.stuck = {"stuck"}
    keeper = vault(tmp_path, trusts)
    jobs = {}
    for name, morph in (("live", True), ("ended", False)):
        plain = migration(passes=1, morph=morph)
        plain = msgspec.structs.replace(plain, id=plain.id.replace("11111111-", f"{len(jobs)}1111111-", 1))
        sealed = await keeper.seal_trust("p", plain.execution_id, name)
        jobs[name] = msgspec.structs.replace(plain, sealed_trust=sealed)
    agents = ScriptedAgents(lambda wish, *rest: done(wish, *rest) if wish.id == jobs["ended"].id else [])
    async with driving(store, agents) as driver:
        for wish in jobs.values():
            await driver.submit(wish, await store.create(wish, plan_migration(wish), None))
        async with asyncio.timeout(10):
            while not all(run.terminal for run in driver.runs(jobs["ended"].id)):
                await driver.cancel(jobs["ended"].id)
                await asyncio.sleep(0.01)
        sweep = TrustSweep(trusts, keeper, driver, clock)  # type: ignore[arg-type]  # all it asks for is the time
        await sweep.sweep()
        assert len(trusts.listed) == 4, "each may still be on its way to its job"
        clock.passed = GRACE_S
        await sweep.sweep()
        await sweep.sweep()
        assert sorted(trusts.listed) == ["live", "stuck"]
    assert GRACE_S + 2 * SWEEP_S < 120


async def test_a_trust_is_sealed_and_only_for_its_own_project(tmp_path: Path) -> None:
    keeper = vault(tmp_path, PhonyTrusts())
    sealed = await keeper.seal_trust("p", "e", "trust-1")
    assert "trust" not in sealed
    wish = msgspec.structs.replace(migration(), execution_id="e", sealed_trust=sealed)
    assert keeper.trust_of(wish) == "trust-1"
    with pytest.raises(Denied, match="another project"):
        await keeper.seal_trust("q", "e", "trust-1")


async def test_endpoints_are_opened_by_what_they_say(tmp_path: Path) -> None:
    keeper = vault(tmp_path, PhonyTrusts(), barbican=True)
    sealed = await keeper.seal_trust("p", "e", "t")
    plain = migration()
    by_secret = Endpoint("image", {}, {"secret_id": "s"}, "", "s")
    delegated = Endpoint("openstack", {}, {"region_name": "R"}, "", "", True)
    both = msgspec.structs.replace(plain.transfer, origin=by_secret, destination=delegated)
    wish = msgspec.structs.replace(plain, execution_id="e", sealed_trust=sealed, transfer=both)
    assert await keeper.connection_info(wish, Side.ORIGIN) == {"path": "/x"}
    info = await keeper.connection_info(wish, Side.DESTINATION)
    assert info == {"project_id": "p", "token": "token of t", "region_name": "R"}
    with pytest.raises(InvalidInput, match="no Keystone token"):
        await keeper.delegated("", {})
    with pytest.raises(InvalidInput, match="must be asked for with a Keystone token"):
        await keeper.resolve_secret("p", "s")
    with pytest.raises(InvalidInput, match="must be the id of a secret"):
        vault(tmp_path).check_reference("origin", {"secret_ref": "http://barbican/v1/secrets/x"})
