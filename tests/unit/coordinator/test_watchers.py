"""What somebody who watches a migration is told."""

from __future__ import annotations

from coriolis.coordinator.job_service import state_event
from coriolis.coordinator.progress import QUEUE_EVENTS, ProgressBoard, Watcher
from coriolis.rpc.gen.coriolis.v1 import types_pb2

ID = "11111111-2222-4333-8444-555555555555"


async def told(watcher: Watcher) -> list[str]:
    """All until the end: states by name, anything else by kind."""
    return [
        event.state.status if event.WhichOneof("event") == "state" else str(event.WhichOneof("event"))
        async for event in watcher.events()
    ]


async def test_each_watcher_is_told_each_state_once() -> None:
    """Whoever came between two changes that left the state as it was knows it from the answer's beginning."""
    board = ProgressBoard()
    with board.watching(ID, "RUNNING") as early:
        for _ in range(2):
            board.publish(ID, state_event(ID, "RUNNING", ""))
        with board.watching(ID, "RUNNING") as late:
            board.report(ID, types_pb2.DiskProgress(task_id="t", disk_id="d"))
            for status in ("RUNNING", "CANCELLING", "CANCELLING", "CANCELED"):
                board.publish(ID, state_event(ID, status, ""))
            board.end_watchers(ID)
            assert await told(late) == ["disk", "CANCELLING", "CANCELED"]
        assert await told(early) == ["disk", "CANCELLING", "CANCELED"]


async def test_a_watcher_that_falls_behind_is_ended() -> None:
    board = ProgressBoard()
    with board.watching(ID, "RUNNING") as slow:
        for _ in range(QUEUE_EVENTS + 1):
            board.report(ID, types_pb2.DiskProgress(task_id="t", disk_id="d"))
        assert await told(slow) == ["disk"] * (QUEUE_EVENTS - 1)
