"""The leader's limits: who is told what and when, over a real driver and store, with agents that only listen."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Gauge

from coriolis.coordinator.assignments import assignment_id
from coriolis.coordinator.bandwidth import HOLD, Bandwidth
from coriolis.coordinator.directory import AgentDirectory
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.sessions import AgentSession, Sessions
from coriolis.coordinator.store import MemoryStore
from coriolis.coordinator.vault import Vault
from coriolis.errors import InvalidInput, NotFound, QuotaExceeded, StaleEpoch
from coriolis.model import bandwidth as model
from coriolis.model.bandwidth import Limit, Rate, Scope, ScopeKind
from coriolis.model.bandwidth_text import parse_window
from coriolis.model.job import InstanceRun
from coriolis.model.task import Part, Role, TaskStatus, TaskType
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as agent_pb
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2, types_pb2
from coriolis.rpc.identity import Identity
from coriolis.security.secrets import FileSecretStore, SecretBox
from tests.unit.coordinator.test_scheduler import migration

LINK = Scope(ScopeKind.LINK, "paris/oslo")
MONDAY = datetime(2026, 3, 30, 7, 59, tzinfo=UTC)


class HandClock:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.moment = MONDAY

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return self.moment


def sending() -> InstanceRun:
    """A run whose first pass goes from agent ``a`` to agent ``b``: two disks."""
    [run] = plan_migration(migration())
    task = next(task for task in run.tasks if task.task_type is TaskType.REPLICATE_DISKS)
    parts = (Part(Role.SINK, "b", address="127.0.0.1:1"), Part(Role.SOURCE, "a"))
    running = msgspec.structs.replace(task, status=TaskStatus.RUNNING, generation=1, parts=parts)
    return msgspec.structs.replace(run, tasks=(running,), results={"volumes": {"vda": {}, "vdb": {}}})


class Leader:
    """One term over ``store``; agents a (paris) and b (oslo) are registered, a has a session."""

    def __init__(self, store: MemoryStore, directory: Path) -> None:
        self.store, self.clock, self.board = store, HandClock(), ProgressBoard()
        box = SecretBox(bytes(32))
        self.sessions = Sessions("c", store.epoch, Vault(box, FileSecretStore(directory, box)), self.board)
        self.driver = Driver(store, self.sessions, self.clock, lambda *_: None)
        self.driver._spawn_feed = lambda *_: None  # type: ignore[method-assign]
        self.sessions.driver = self.driver
        self.directory = AgentDirectory()
        for agent, site in (("a", "paris"), ("b", "oslo")):
            self.directory.put_spec(cluster_pb2.Agent(id=agent, site=site))
        self.directory.loaded = True
        self.registry = CollectorRegistry()
        gauge = Gauge("limit", "", ("scope", "name"), registry=self.registry)
        self.bandwidth = Bandwidth(store, self.driver, self.sessions, self.board, self.directory, self.clock, gauge)
        self.session = self.connect()

    def connect(self) -> AgentSession:
        identity = Identity.parse("spiffe://lab.test/agent/a")
        self.session = self.sessions._open(cluster_pb2.Agent(id="a", site="paris"), identity)
        return self.session

    def told(self) -> list[agent_pb.Rates]:
        """What the agent was told since the last time."""
        found = []
        while not self.session.outbound.empty():
            message = self.session.outbound.get_nowait()
            assert message is not None
            found.append(message.rates)
        return found


@pytest.fixture
async def leader(tmp_path: Path) -> Leader:
    made = Leader(MemoryStore(), tmp_path)
    run = sending()
    await made.driver.submit(migration(), await made.store.create(migration(), [run], None))
    return made


async def test_a_limit_is_told_at_once_and_its_end_too(leader: Leader) -> None:
    await leader.bandwidth.set(Limit(LINK, 4000))
    [rates] = leader.told()
    [task] = leader.driver.all_runs()[0].tasks
    assert rates.assignment_id == assignment_id(task.id, Role.SOURCE, 1)
    assert dict(rates.bytes_per_s) == pytest.approx({"vda": 2000, "vdb": 2000})
    assert not rates.unlimited
    leader.bandwidth.divide()
    assert leader.told() == [], "nothing new"
    await leader.bandwidth.delete(LINK)
    [rates] = leader.told()
    assert rates.unlimited
    assert not rates.bytes_per_s


async def test_a_new_session_is_told_again(leader: Leader) -> None:
    await leader.bandwidth.set(Limit(LINK, 4000))
    leader.told()
    leader.connect()
    leader.bandwidth.divide()
    assert len(leader.told()) == 1


async def test_the_calendar_counts_when_its_hour_comes(leader: Leader) -> None:
    await leader.bandwidth.set(Limit(LINK, None, (parse_window("Mon-Fri 08:00-18:00 0"),)))
    assert [rates.unlimited for rates in leader.told()] == [True]
    leader.clock.moment = MONDAY.replace(hour=8, minute=0)
    leader.bandwidth.divide()
    [rates] = leader.told()
    assert dict(rates.bytes_per_s) == {"vda": 0, "vdb": 0}
    labels = {"scope": "link", "name": "paris/oslo"}
    assert leader.registry.get_sample_value("limit", labels) == 0


async def test_a_disk_that_sends_less_leaves_the_rest(leader: Leader) -> None:
    await leader.bandwidth.set(Limit(LINK, 10_000_000))
    [task] = leader.driver.all_runs()[0].tasks
    granted, sent, history = {}, {"vda": 0.0, "vdb": 0.0}, []
    for second in range(40):
        for rates in leader.told():
            assert sum(rates.bytes_per_s.values()) <= 10_000_000
            granted = dict(rates.bytes_per_s)
        leader.clock.seconds = float(second)
        for disk_id, most in (("vda", 1_000_000), ("vdb", 1_000_000_000)):
            sent[disk_id] += min(most, granted[disk_id])
            report = types_pb2.DiskProgress(task_id=task.id, disk_id=disk_id, sent_bytes=int(sent[disk_id]))
            leader.board.report(task_and_migration(leader), report)
        leader.bandwidth.divide()
        history.append(granted["vdb"])
    assert min(history[10:]) > 8_000_000, "and it stays so"
    assert sent["vdb"] > 40 * 8_000_000


def task_and_migration(leader: Leader) -> str:
    return leader.driver.all_runs()[0].migration_id


async def test_a_newcomer_knows_its_rates_before_it_begins(leader: Leader) -> None:
    [task] = leader.driver.all_runs()[0].tasks
    assert leader.bandwidth.initial_rates(task.id) == {"unlimited": True, "disks": {}}
    await leader.bandwidth.set(Limit(Scope(ScopeKind.AGENT, "b"), 5000))
    assert leader.bandwidth.initial_rates(task.id) == HOLD, "it was divided just now: many begin together"
    leader.clock.seconds = 1.0
    given = leader.bandwidth.initial_rates(task.id)
    assert given["unlimited"] is False
    assert given["disks"] == pytest.approx({"vda": 2500, "vdb": 2500})


async def test_the_next_leader_goes_on_with_the_limits_once_it_knows_who_is_where(
    leader: Leader, tmp_path: Path
) -> None:
    await leader.bandwidth.set(Limit(LINK, 4000))
    leader.store.leading_epoch = 2
    following = Leader(MemoryStore(2, shared=leader.store), tmp_path)
    following.directory.loaded = False
    loaded = await following.store.load()
    for each in loaded.migrations:
        await following.driver.submit(each, list(loaded.runs))
    await following.bandwidth.load()
    following.bandwidth.divide()
    assert following.told() == [], "without the sites it would say that nothing is limited"
    [task] = following.driver.all_runs()[0].tasks
    assert following.bandwidth.initial_rates(task.id) == HOLD
    following.directory.loaded = True
    following.bandwidth.divide()
    [rates] = following.told()
    assert sum(rates.bytes_per_s.values()) == pytest.approx(4000)
    with pytest.raises(StaleEpoch):
        await leader.bandwidth.set(Limit(LINK, None))
    assert [limit.rate for limit in leader.bandwidth.limits()] == [4000], "what was not stored is not in force"


async def test_what_there_is_not_has_no_limit(leader: Leader) -> None:
    job = task_and_migration(leader)
    project = leader.driver.migrations[job].project_id
    for scope in (
        Scope(ScopeKind.AGENT, "absent"),
        Scope(ScopeKind.LINK, "paris/absent"),
        Scope(ScopeKind.JOB, "absent", project),
        Scope(ScopeKind.JOB, job, "foreign"),
    ):
        with pytest.raises(NotFound):
            await leader.bandwidth.set(Limit(scope, 4000))
        with pytest.raises(NotFound):
            await leader.bandwidth.delete(scope)
    with pytest.raises(InvalidInput):
        await leader.bandwidth.set(Limit(LINK, 1))
    assert leader.bandwidth.limits() == []


async def test_a_deleted_job_takes_its_limit_with_it(leader: Leader) -> None:
    job = task_and_migration(leader)
    scope = Scope(ScopeKind.JOB, job, leader.driver.migrations[job].project_id)
    made = await leader.bandwidth.set(Limit(scope, 4000))
    assert made.updated_at == ""
    assert (await leader.bandwidth.set(Limit(scope, 5000))).updated_at != ""
    await leader.driver.delete(job)
    leader.bandwidth.divide()
    assert leader.bandwidth.limits() == []
    assert await leader.store.load_limits() == []


@pytest.mark.parametrize("rate", [None, 4000])
async def test_their_number_is_bounded(leader: Leader, monkeypatch: pytest.MonkeyPatch, rate: Rate) -> None:
    monkeypatch.setattr("coriolis.coordinator.bandwidth.MAX_LIMITS", 1)
    assert model.MAX_LIMITS == 1000
    await leader.bandwidth.set(Limit(LINK, rate))
    with pytest.raises(QuotaExceeded):
        await leader.bandwidth.set(Limit(Scope(ScopeKind.AGENT, "a"), rate))
    await leader.bandwidth.set(Limit(LINK, 5000))


async def test_a_stored_calendar_that_cannot_be_followed_does_not_end_the_leader(leader: Leader) -> None:
    window = parse_window("daily 00:00-24:00 0")
    await leader.store.save_limit(Limit(LINK, 5000, (window,), "Mars/Olympus"))
    await leader.bandwidth.load()
    assert leader.bandwidth.in_force() == {(ScopeKind.LINK, "paris/oslo"): 5000}
