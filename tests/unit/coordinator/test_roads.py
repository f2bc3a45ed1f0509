"""The leader's part in paths: it asks before it places, says why it waits, and names good keys to those who relay."""

from __future__ import annotations

import msgspec

from coriolis.coordinator.events import Placed, PlacementWaits
from coriolis.coordinator.placement import NotPlaced
from coriolis.coordinator.planner import plan_migration
from coriolis.coordinator.roads import MEASURE_WAIT_S, Roads
from coriolis.coordinator.scheduler import step
from coriolis.model.job import InstanceRun
from coriolis.model.task import Part, Road, Role, Side, Task, TaskStatus
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import types_pb2
from tests.unit.coordinator.test_paths import peer
from tests.unit.coordinator.test_scheduler import NOW, migration

AGENTS = {Role.SINK: "b", Role.SOURCE: "a"}


class Leader:
    """Roads with agents a, b and the relay r, whose outgoing messages are kept."""

    def __init__(self, *names: str) -> None:
        self.sent: list[tuple[str, pb.SessionResponse]] = []
        self.roads = Roads(self._send, lambda task, generation: f"{task[:20]}{generation:012}".encode())
        for name in names:
            self.roads.opened(peer(name, relay=name == "r"))

    def _send(self, agent_id: str, message: pb.SessionResponse) -> bool:
        self.sent.append((agent_id, message))
        return True

    def asked(self) -> set[tuple[str, str]]:
        return {
            (agent_id, target.agent_id) for agent_id, message in self.sent for target in message.probe_peers.targets
        }

    def keys(self, agent_id: str) -> list[list[bytes]]:
        """Each list of keys that the agent was told."""
        return [
            list(message.relay_sessions.keys)
            for name, message in self.sent
            if name == agent_id and message.WhichOneof("message") == "relay_sessions"
        ]

    def answer(self, dialler: str, dialled: str, *, reachable: bool) -> None:
        result = pb.ProbeResult(agent_id=dialled, address="x:1", reachable=reachable, rtt_ms=1.0, error="no answer")
        self.roads.take_results(dialler, pb.ProbeResults(results=[result]))


def disk_task(status: TaskStatus = TaskStatus.PENDING, **changes: object) -> tuple[InstanceRun, Task]:
    [run] = plan_migration(migration())
    task = next(task for task in run.tasks if task.side is Side.BOTH)
    task = msgspec.structs.replace(task, status=status, **changes)
    return msgspec.structs.replace(run, tasks=(task,)), task


async def test_a_placement_asks_and_waits_for_the_answers() -> None:
    leader, (_, task) = Leader("a", "b", "r"), disk_task()
    assert isinstance(leader.roads.placed(task, "p", AGENTS), NotPlaced)
    assert {("a", "b"), ("b", "a"), ("a", "r"), ("b", "r")} <= leader.asked()
    leader.answer("a", "b", reachable=False)
    leader.answer("b", "a", reachable=False)
    waiting = leader.roads.placed(task, "p", AGENTS)
    assert isinstance(waiting, NotPlaced)
    assert not waiting.tell, "the relay may still turn out to be the way"
    leader.answer("a", "r", reachable=True)
    leader.answer("b", "r", reachable=True)
    placed = leader.roads.placed(task, "p", AGENTS)
    assert isinstance(placed, Placed)
    assert placed.road == Road("relay", "r", "x:1")
    assert "r" in placed.note


async def test_what_was_measured_is_used_at_once_but_not_after_a_failure() -> None:
    leader = Leader("a", "b")
    leader.answer("a", "b", reachable=True)
    _, task = disk_task()
    assert isinstance(leader.roads.placed(task, "p", AGENTS), Placed)
    entry = leader.roads.reachability._entries["a", "b"]
    entry.at -= 30
    assert isinstance(leader.roads.placed(task, "p", AGENTS), Placed)
    _, failed = disk_task(attempts=1)
    assert isinstance(leader.roads.placed(failed, "p", AGENTS), NotPlaced)


async def test_without_answers_it_goes_on_by_dialling() -> None:
    leader, (_, task) = Leader("a", "b"), disk_task()
    assert isinstance(leader.roads.placed(task, "p", AGENTS), NotPlaced)
    leader.roads._waiting_since[task.id] -= MEASURE_WAIT_S
    placed = leader.roads.placed(task, "p", AGENTS)
    assert isinstance(placed, Placed)
    assert placed.road == Road("dialled")


async def test_no_way_is_told_and_looked_for_again() -> None:
    leader, (_, task) = Leader("a", "b"), disk_task()
    leader.answer("a", "b", reachable=False)
    leader.answer("b", "a", reachable=False)
    none = leader.roads.placed(task, "p", AGENTS)
    assert isinstance(none, NotPlaced)
    assert none.tell
    assert "relay = true" in none.reason
    for pair in (("a", "b"), ("b", "a")):
        leader.roads.reachability._entries[pair].at -= 10
    leader.sent.clear()
    leader.roads.placed(task, "p", AGENTS)
    assert ("b", "a") in leader.asked(), "an operator may have opened a port: no minute of waiting"


async def test_keys_follow_the_tasks() -> None:
    leader = Leader("a", "b", "r")
    parts = (Part(Role.SINK, "b"), Part(Role.SOURCE, "a"))
    run, task = disk_task(TaskStatus.RUNNING, parts=parts, generation=4, road=Road("relay", "r", "x:1"))
    leader.roads.hand_out_keys([run])
    leader.roads.hand_out_keys([run])
    assert leader.keys("r") == [[f"{task.id[:20]}{4:012}".encode()]], "said once"
    assert leader.keys("a") == [[]], "whatever an earlier leader said, nobody meets there"
    leader.roads.opened(peer("r", relay=True))  # it was restarted
    leader.roads.hand_out_keys([run])
    assert len(leader.keys("r")) == 2
    ended = msgspec.structs.replace(run, tasks=(msgspec.structs.replace(task, status=TaskStatus.COMPLETED),))
    leader.roads.hand_out_keys([ended])
    assert leader.keys("r")[-1] == []


async def test_in_reverse_the_source_is_where_both_meet() -> None:
    leader = Leader("a", "b")
    run, _ = disk_task(TaskStatus.RUNNING, generation=1, road=Road("reverse", "a", "x:1"))
    leader.roads.hand_out_keys([run])
    assert [len(keys) for keys in leader.keys("a")] == [1]
    assert leader.keys("b") == [[]]


async def test_speed_is_that_of_the_sites() -> None:
    leader = Leader("a", "b")
    _, task = disk_task(TaskStatus.RUNNING, parts=(Part(Role.SINK, "b"), Part(Role.SOURCE, "a")))
    leader.roads.closed("a")  # its last report may come after its session
    leader.roads.moved(task, types_pb2.DiskProgress(disk_id="d", sent_bytes=1000))
    assert leader.roads.speeds.best(("a", "b"), 1e9) == 0
    now = leader.roads.speeds._links["a", "b"].last
    assert leader.roads.speeds.best(("a", "b"), now) > 0


# ---- in the life of a task ----------------------------------------------------------------------------------------


def test_the_path_is_stored_and_said() -> None:
    run, task = disk_task()
    road = Road("relay", "r", "x:1")
    after, _ = step(run, Placed(task.id, AGENTS, road, "path relay: by r"), NOW)
    assert after.tasks[0].road == road
    assert [event.message for event in after.tasks[0].events] == ["path relay: by r"]


def test_why_a_task_waits_is_said_once() -> None:
    run, task = disk_task()
    for _ in range(3):
        run, commands = step(run, PlacementWaits(task.id, "no way"), NOW)
        assert commands == []
    assert [(event.level, event.message) for event in run.tasks[0].events] == [("WARNING", "no way")]
    assert run.tasks[0].status is TaskStatus.PENDING
    run, _ = step(run, PlacementWaits(task.id, "another reason"), NOW)
    assert len(run.tasks[0].events) == 2
    running, task = disk_task(TaskStatus.RUNNING)
    assert step(running, PlacementWaits(task.id, "late"), NOW)[0] == running
