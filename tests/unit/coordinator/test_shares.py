"""Shares: no limit is exceeded, nobody starves, nothing is wasted, jobs are equal."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.coordinator.shares import (
    FLOOR,
    GROWTH,
    DiskUse,
    LimitKey,
    SourceTask,
    UseMeter,
    share,
    worth_telling,
)
from coriolis.model.bandwidth import ScopeKind

AGENTS = ("a", "b", "c")
JOBS = ("j1", "j2", "j3")
MB = 10**6
USES = st.one_of(st.none(), st.floats(0, 1e9))
LINK = (ScopeKind.LINK, "a/b")


@st.composite
def sending(draw: st.DrawFn) -> list[SourceTask]:
    tasks = []
    for number in range(draw(st.integers(1, 8))):
        origin, destination = draw(st.sampled_from(AGENTS)), draw(st.sampled_from(AGENTS))
        disks = [
            DiskUse(f"d{index}", draw(USES), draw(USES), draw(st.booleans()))
            for index in range(draw(st.integers(1, 4)))
        ]
        agents = tuple(dict.fromkeys((origin, destination)))
        tasks.append(
            SourceTask(f"t{number}", draw(st.sampled_from(JOBS)), agents, f"{origin}/{destination}", tuple(disks))
        )
    return tasks


LIMIT_KEYS: list[LimitKey] = [
    *((ScopeKind.AGENT, agent) for agent in AGENTS),
    *((ScopeKind.JOB, job) for job in JOBS),
    *((ScopeKind.LINK, f"{origin}/{destination}") for origin in AGENTS for destination in AGENTS),
]
LIMITS = st.dictionaries(st.sampled_from(LIMIT_KEYS), st.one_of(st.just(0.0), st.floats(1000, 1e10)))


def total(tasks: list[SourceTask], rates: dict[tuple[str, str], float | None], key: LimitKey) -> float:
    return sum(
        rates[task.task_id, disk.disk_id] or 0.0
        for task in tasks
        if key in task.covered_by({key: 1.0})
        for disk in task.disks
    )


@given(sending(), LIMITS)
def test_no_limit_is_exceeded_nobody_starves_and_nothing_is_wasted(
    tasks: list[SourceTask], limits: dict[LimitKey, float]
) -> None:
    rates = share(tasks, limits)
    assert set(rates) == {(task.task_id, disk.disk_id) for task in tasks for disk in task.disks}
    used = {key: total(tasks, rates, key) for key in limits}
    for key, limit in limits.items():
        assert used[key] <= limit, key
    for task in tasks:
        covering = task.covered_by(limits)
        for disk in task.disks:
            rate = rates[task.task_id, disk.disk_id]
            assert (rate is None) == (not covering)
            if rate is not None:
                assert (rate > 0) == all(limits[key] > 0 for key in covering)
        if covering:
            assert any(used[key] >= limits[key] * 0.999 for key in covering), "some limit of each task is used up"


def task(name: str, job: str, *disks: DiskUse) -> SourceTask:
    return SourceTask(name, job, ("a", "b"), "a/b", disks)


def test_jobs_share_a_link_equally_whatever_their_number_of_disks() -> None:
    many = [task(f"m{number}", "j1", DiskUse("d0"), DiskUse("d1")) for number in range(5)]
    rates = share([*many, task("s", "j2", DiskUse("d"))], {LINK: 20 * MB})
    assert rates["s", "d"] == pytest.approx(10 * MB)
    assert all(rates[each.task_id, disk.disk_id] == pytest.approx(MB) for each in many for disk in each.disks)


def test_what_a_disk_leaves_goes_to_its_job_and_then_to_the_others() -> None:
    slow = DiskUse("slow", used=MB, granted=5 * MB)
    rates = share([task("t", "j1", slow, DiskUse("fast")), task("u", "j2", DiskUse("d"))], {LINK: 20 * MB})
    assert rates["t", "slow"] == pytest.approx(GROWTH * MB)
    assert rates["t", "fast"] == pytest.approx(10 * MB - GROWTH * MB)
    assert rates["u", "d"] == pytest.approx(10 * MB)
    alone = share([task("t", "j1", slow), task("u", "j2", DiskUse("d"))], {LINK: 20 * MB})
    assert alone["u", "d"] == pytest.approx(20 * MB - GROWTH * MB)


def test_a_job_limit_leaves_the_rest_of_the_link_to_others() -> None:
    limits: dict[LimitKey, float] = {LINK: 20.0 * MB, (ScopeKind.JOB, "j1"): 2.0 * MB}
    rates = share([task("t", "j1", DiskUse("d")), task("u", "j2", DiskUse("d"))], limits)
    assert rates["t", "d"] == pytest.approx(2 * MB)
    assert rates["u", "d"] == pytest.approx(18 * MB)


def test_an_idle_disk_that_begins_again_has_its_share_back_within_two_rounds() -> None:
    idle, other = DiskUse("d", used=0.0, granted=10.0 * MB), DiskUse("d")
    first = share([task("t", "j1", idle), task("u", "j2", other)], {LINK: 20 * MB})
    assert first["t", "d"] == pytest.approx(FLOOR)
    back = DiskUse("d", used=FLOOR * 0.9, granted=first["t", "d"])
    second = share([task("t", "j1", back), task("u", "j2", other)], {LINK: 20 * MB})
    assert second["t", "d"] == pytest.approx(10 * MB)


def test_spare_room_is_given_as_headroom() -> None:
    rates = share([task("t", "j1", DiskUse("d", used=MB, granted=50.0 * MB))], {LINK: 100 * MB})
    assert rates["t", "d"] == pytest.approx(100 * MB)


def test_a_finished_disk_keeps_a_little_for_another_attempt() -> None:
    rates = share([task("t", "j1", DiskUse("done", 0.0, MB, finished=True), DiskUse("d"))], {LINK: 10 * MB})
    assert rates["t", "done"] == pytest.approx(FLOOR)
    assert rates["t", "d"] == pytest.approx(10 * MB - FLOOR)


def test_a_thousand_jobs_are_shared_in_time() -> None:
    tasks = [
        SourceTask(
            f"t{number}", f"j{number}", ("a", f"b{number % 50}"), f"a/s{number % 50}",
            tuple(DiskUse(f"d{disk}", 1000.0 * (number + 1) * (disk + 1), 1e9) for disk in range(5)),
        )
        for number in range(1000)
    ]  # fmt: skip
    limits: dict[LimitKey, float] = {(ScopeKind.AGENT, "a"): 1e10}
    limits |= {(ScopeKind.LINK, f"a/s{number}"): 1e8 + number for number in range(50)}
    began = time.process_time()
    share(tasks, limits)
    assert time.process_time() - began < 1.0


def test_falls_are_told_at_once_and_small_rises_later() -> None:
    assert not worth_telling({"d": 100.0}, {"d": 100.0}, 60)
    assert worth_telling({"d": 100.0}, {"d": 99.0}, 0)
    assert worth_telling({"d": 100.0}, {"d": 110.0}, 0)
    assert not worth_telling({"d": 100.0}, {"d": 103.0}, 1)
    assert worth_telling({"d": 100.0}, {"d": 103.0}, 5)
    assert worth_telling({"d": None}, {"d": 103.0}, 0)
    assert worth_telling({"d": 100.0}, {"d": None}, 0)
    assert worth_telling({"d": None}, {"d": None, "e": None}, 0)


def test_use_is_measured_over_some_seconds() -> None:
    meter = UseMeter()
    key = ("t", "d")
    assert meter.used(key) is None
    for second, sent in enumerate([0, 0, 2000, 2000, 4000, 5000, 6000, 7000, 8000, 9500]):
        meter.take(key, sent, float(second))
    assert meter.used(key) == 1250.0
    meter.take(key, 10, 10.0)
    assert meter.used(key) is None, "a new beginning"
    meter.keep(set())
    assert meter.used(key) is None
