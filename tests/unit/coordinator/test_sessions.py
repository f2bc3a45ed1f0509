"""What a leader tells an agent that comes back: held work goes on, cancelled work is withdrawn again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from coriolis.clock import SystemClock
from coriolis.coordinator.agent_session import AgentSession
from coriolis.coordinator.assignments import assignment_id
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.events import Placed
from coriolis.coordinator.paths import Peer
from coriolis.coordinator.placement import Candidate, Need, NotPlaced, Offer
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.progress import ProgressBoard
from coriolis.coordinator.sessions import Sessions
from coriolis.coordinator.store import MemoryStore
from coriolis.coordinator.vault import Vault
from coriolis.model.job import InstanceRun
from coriolis.model.task import Part, Road, Role, Side, TaskStatus, TaskType
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2
from coriolis.rpc.identity import Identity
from coriolis.security.secrets import FileSecretStore, SecretBox
from tests.unit.coordinator.test_scheduler import migration

AGENT = "spiffe://lab.test/agent/a"


def one_task(status: TaskStatus) -> InstanceRun:
    """A run whose first task is assigned to the agent and stands at ``status``."""
    [run] = plan_migration(migration())
    task = next(task for task in run.tasks if task.task_type is TaskType.GET_INSTANCE_INFO)
    given = msgspec.structs.replace(task, status=status, generation=3, parts=(Part(Role.SINGLE, "a"),))
    return msgspec.structs.replace(run, tasks=(given,), cancel_requested=status is TaskStatus.CANCELLING)


async def come_back(run: InstanceRun, directory: Path, *, holding: bool) -> tuple[Driver, list[pb.SessionResponse]]:
    store = MemoryStore()
    stored = await store.create(migration(), [run], None)
    box = SecretBox(bytes(32))
    sessions = Sessions("c", 1, Vault(box, FileSecretStore(directory, box)), ProgressBoard())
    driver = Driver(store, sessions, SystemClock(), lambda *_: None)
    sessions.driver = driver
    driver._spawn_feed = lambda *_: None  # type: ignore[method-assign]
    await driver.submit(migration(), stored)
    driver._carry_out = lambda *_: None  # type: ignore[method-assign]
    session = AgentSession(cluster_pb2.Agent(id="a"), Identity.parse(AGENT))
    [task] = run.tasks
    held = [pb.HeldAssignment(assignment_id=assignment_id(task.id, Role.SINGLE, 3), generation=3)] if holding else []
    await sessions._reconcile(session, pb.Hello(agent=session.agent, held=held))
    sent = []
    while not session.outbound.empty():
        message = session.outbound.get_nowait()
        assert message is not None
        sent.append(message)
    return driver, sent


async def test_a_cancel_that_was_lost_with_a_session_is_repeated(tmp_path: Path) -> None:
    """Otherwise a cancelled transfer would run to its end: nobody else withdraws it."""
    run = one_task(TaskStatus.CANCELLING)
    _, sent = await come_back(run, tmp_path, holding=True)
    assert [message.withdraw.assignment_id for message in sent] == [assignment_id(run.tasks[0].id, Role.SINGLE, 3)]


async def test_held_work_goes_on(tmp_path: Path) -> None:
    _, sent = await come_back(one_task(TaskStatus.RUNNING), tmp_path, holding=True)
    assert sent == []


@pytest.mark.parametrize(
    ("status", "becomes"), [(TaskStatus.RUNNING, TaskStatus.PENDING), (TaskStatus.CANCELLING, TaskStatus.CANCELED)]
)
async def test_work_that_the_agent_lost_is_taken_back(tmp_path: Path, status: TaskStatus, becomes: TaskStatus) -> None:
    run = one_task(status)
    driver, sent = await come_back(run, tmp_path, holding=False)
    assert sent == []
    assert driver.runs(run.migration_id)[0].tasks[0].status is becomes


async def test_others_of_the_site_step_in_where_the_best_agent_cannot_be_reached(tmp_path: Path) -> None:
    box = SecretBox(bytes(32))
    sessions = Sessions("c", 1, Vault(box, FileSecretStore(tmp_path, box)), ProgressBoard())
    for name in ("a", "b1", "b2"):
        sessions.roads.opened(Peer(name, name[0], "x:1"))
    answers = [("a", "b1", False), ("b1", "a", False), ("a", "b2", True)]

    def measure(count: int) -> None:
        for dialler, dialled, reachable in answers[:count]:
            result = pb.ProbeResult(agent_id=dialled, address="x:1", reachable=reachable)
            sessions.roads.take_results(dialler, pb.ProbeResults(results=[result]))

    [run] = plan_migration(migration())
    task = next(task for task in run.tasks if task.side is Side.BOTH)
    needs = {Side.ORIGIN: Need("image", {"at": "a"}), Side.DESTINATION: Need("image", {"at": "b"})}
    candidates = [Candidate(name, (Offer("image", ({"at": name[0]},)),)) for name in ("a", "b1", "b2")]
    best = {Role.SINK: "b1", Role.SOURCE: "a"}
    measure(2)
    blocked = sessions._with_road(run, task, needs, candidates, best)
    assert isinstance(blocked, NotPlaced), "the other way is not proved"
    measure(3)
    placed = sessions._with_road(run, task, needs, candidates, best)
    assert isinstance(placed, Placed)
    assert placed.agents == {Role.SINK: "b2", Role.SOURCE: "a"}
    assert placed.road == Road("dialled")
