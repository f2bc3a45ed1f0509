"""Fence 2 and its journal: nothing lower than what was obeyed, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.agent.fencing import MAX_REMEMBERED_TASKS, Fence, admit_leader, admit_task
from coriolis.agent.journal import FenceJournal
from coriolis.durable_file import replace_file
from coriolis.errors import Corrupt, StaleEpoch, StaleGeneration

orders = st.lists(st.tuples(st.integers(1, 5), st.sampled_from("ab"), st.integers(1, 5)), max_size=40)


@given(orders)
def test_only_rising_epochs_and_generations_are_obeyed(given_orders: list[tuple[int, str, int]]) -> None:
    fence = Fence()
    obeyed: list[tuple[int, str, int]] = []
    for epoch, task, generation in given_orders:
        highest_epoch = max((e for e, _, _ in obeyed), default=0)
        highest = max((g for _, t, g in obeyed if t == task), default=0)
        try:
            fence = admit_task(fence, epoch, task, generation)
        except StaleEpoch:
            assert epoch < highest_epoch
        except StaleGeneration:
            assert epoch >= highest_epoch
            assert generation < highest
        else:
            assert epoch >= highest_epoch
            assert generation >= highest
            obeyed.append((epoch, task, generation))


def test_the_memory_of_tasks_is_bounded_and_drops_the_oldest() -> None:
    fence = Fence(1, {f"t{number}": 1 for number in range(MAX_REMEMBERED_TASKS)})
    fence = admit_task(fence, 1, "t0", 2)  # used again: now the newest
    fence = admit_task(fence, 1, "new", 1)
    assert len(fence.generations) == MAX_REMEMBERED_TASKS
    assert "t1" not in fence.generations
    assert fence.generations["t0"] == 2


def test_a_restarted_agent_still_refuses_what_is_old(tmp_path: Path) -> None:
    journal = FenceJournal(tmp_path)
    journal.admit_leader(7)
    journal.admit_task(7, "t:sink", 3)
    again = FenceJournal(tmp_path)
    assert again.fence == journal.fence
    with pytest.raises(StaleEpoch):
        again.admit_leader(6)
    with pytest.raises(StaleGeneration):
        again.admit_task(8, "t:sink", 2)
    assert FenceJournal(tmp_path).fence.epoch == 7, "a refused order leaves no trace"
    again.admit_task(8, "t:sink", 3)


def test_a_write_that_was_interrupted_leaves_the_old_fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FenceJournal(tmp_path)
    journal.admit_leader(7)

    def cut(source: Path, target: Path) -> None:
        raise OSError("power cut")

    monkeypatch.setattr("os.replace", cut)
    with pytest.raises(OSError, match="power cut"):
        journal.admit_leader(8)
    assert journal.fence.epoch == 7, "not obeyed before it is on disk"
    assert FenceJournal(tmp_path).fence.epoch == 7


def test_a_damaged_fence_stops_the_agent(tmp_path: Path) -> None:
    replace_file(tmp_path / "fence.json", b'{"epoch": 7')
    with pytest.raises(Corrupt, match=r"fence\.json"):
        FenceJournal(tmp_path)
    assert admit_leader(Fence(), 0) == Fence()
