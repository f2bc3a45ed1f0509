"""Who may send how fast: limits divided among running disks by max-min fairness. Pure.

Jobs that meet at a limit share it equally; inside a job its disks do. What a disk cannot use goes to the others of its
job, then to other jobs. No limit is ever given away twice; what is left over is given as headroom.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from coriolis.model.bandwidth import ScopeKind

GROWTH = 1.3
"""A disk is offered so much more than it used, that it can use more."""
FLOOR = 64 << 10
"""Bytes per second that even an idle disk is offered."""
HUNGRY = 0.85
"""A disk that uses this part of its grant would use more: its demand is not known. Well above 1 / GROWTH, or a disk
that was offered GROWTH times what it uses would look hungry, and shares would swing."""
LEVEL_STEP = 0.1
"""Demands that differ less are one level, so that a thousand jobs take few rounds."""
WINDOW_S = 6.0
"""Reports come once a second and are late or early: what a disk uses is measured over so many seconds."""
EPSILON = 1e-9

LimitKey = tuple[ScopeKind, str]
"""(kind, name) of a scope."""
DiskKey = tuple[str, str]
"""(task id, disk id)."""


class DiskUse(msgspec.Struct, frozen=True):
    """``used``: bytes per second that it put on the wire lately, ``granted``: what it might; None: not known, no limit.

    A ``finished`` disk sends nothing, though a new attempt may make it begin again.
    """

    disk_id: str
    used: float | None = None
    granted: float | None = None
    finished: bool = False

    @property
    def hungry(self) -> bool:
        """Whether only its grant holds it back, as far as one can know."""
        if self.used is None:
            return not self.finished
        return self.granted is None or self.used >= HUNGRY * self.granted > 0

    @property
    def demand(self) -> float:
        return math.inf if self.hungry else max(FLOOR, GROWTH * (self.used or 0.0))


class SourceTask(msgspec.Struct, frozen=True):
    """A sending task. Its bytes count once for each of ``agents`` (origin's, destination's), its link and its job."""

    task_id: str
    job_id: str
    agents: tuple[str, ...]
    link: str
    disks: tuple[DiskUse, ...]

    def covered_by(self, limits: Mapping[LimitKey, float]) -> frozenset[LimitKey]:
        keys = {(ScopeKind.AGENT, agent) for agent in self.agents}
        keys |= {(ScopeKind.LINK, self.link), (ScopeKind.JOB, self.job_id)}
        return frozenset(keys & limits.keys())


class _Group:
    """Disks of one job under the same limits: they rise together."""

    def __init__(self, job_id: str, limits: frozenset[LimitKey]) -> None:
        self.job_id = job_id
        self.limits = limits
        self.disks: list[tuple[DiskKey, DiskUse]] = []
        self.rate = 0.0

    @property
    def size(self) -> int:
        """Of the disks that want to send; 1 when none does, so that the group still gets its little."""
        return sum(not disk.finished or disk.hungry for _, disk in self.disks) or 1


def share(tasks: Sequence[SourceTask], limits: Mapping[LimitKey, float]) -> dict[DiskKey, float | None]:
    """Bytes per second for each disk; None where no limit applies. The sum under each limit never exceeds it."""
    grants: dict[DiskKey, float | None] = {}
    groups: dict[tuple[str, frozenset[LimitKey]], _Group] = {}
    for task in tasks:
        covering = task.covered_by(limits)
        for disk in task.disks:
            key = (task.task_id, disk.disk_id)
            if not covering:
                grants[key] = None
                continue
            group = groups.setdefault((task.job_id, covering), _Group(task.job_id, covering))
            group.disks.append((key, disk))
    raised = list(groups.values())
    _raise(raised, limits, [sum(disk.demand for _, disk in group.disks) for group in raised])
    _raise(raised, limits, [math.inf] * len(raised))
    for group in raised:
        grants.update(_divide(group))
    return grants


def _raise(groups: list[_Group], limits: Mapping[LimitKey, float], caps: list[float]) -> None:
    """Raise the groups' rates until each is at its cap or under a limit that is used up; jobs rise equally fast."""
    cap_of = {id(group): cap for group, cap in zip(groups, caps, strict=True)}
    left = {key: limit * (1 - EPSILON) for key, limit in limits.items()}
    for group in groups:
        for key in group.limits:
            left[key] = max(0.0, left[key] - group.rate)
    active = [group for group in groups if cap_of[id(group)] > group.rate]
    risen = 0.0
    while active:
        speed = _speeds(active)
        flow = dict.fromkeys(left, 0.0)
        for group in active:
            for key in group.limits:
                flow[key] += speed[id(group)]
        until_limit = {key: left[key] / flow[key] for key in left if flow[key] > 0}
        until_cap = {id(group): (cap_of[id(group)] - group.rate) / speed[id(group)] for group in active}
        step = min(*until_limit.values(), *until_cap.values())
        for group in active:
            group.rate += step * speed[id(group)]
        for key, total in flow.items():
            left[key] = max(0.0, left[key] - step * total)
        risen += step
        full = {key for key, seconds in until_limit.items() if seconds <= step * (1 + EPSILON)}
        level = step + LEVEL_STEP * risen
        active = [group for group in active if until_cap[id(group)] > level and not group.limits & full]


def _speeds(active: list[_Group]) -> dict[int, float]:
    """How fast each group rises: every job by one, divided among its groups by their disks."""
    sizes = {id(group): group.size for group in active}
    whole: dict[str, int] = {}
    for group in active:
        whole[group.job_id] = whole.get(group.job_id, 0) + sizes[id(group)]
    return {id(group): sizes[id(group)] / whole[group.job_id] for group in active}


def _divide(group: _Group) -> dict[DiskKey, float]:
    """The group's rate among its disks: equally, but none above its demand while another wants more."""
    left = group.rate
    given: dict[DiskKey, float] = {}
    by_demand = sorted(group.disks, key=lambda each: each[1].demand)
    for number, (key, disk) in enumerate(by_demand):
        given[key] = min(disk.demand, left / (len(by_demand) - number))
        left -= given[key]
    takers = [key for key, disk in group.disks if not disk.finished] or [key for key, _ in group.disks]
    for key in takers:
        given[key] += max(0.0, left) / len(takers)
    return given


def worth_telling(told: Mapping[str, float | None], now: Mapping[str, float | None], age_s: float) -> bool:
    """Whether an agent must hear its task's new rates: each fall at once, a rise above 5% too, others after 5 s."""
    if told.keys() != now.keys():
        return True
    for disk_id, rate in now.items():
        before = told[disk_id]
        if rate == before:
            continue
        if rate is None or before is None or rate < before * (1 - EPSILON):
            return True
        if rate > before * 1.05 or age_s >= 5.0:
            return True
    return False


class UseMeter:
    """What disks put on the wire lately, from their reports of bytes sent since the beginning."""

    def __init__(self) -> None:
        self._samples: dict[DiskKey, deque[tuple[float, int]]] = {}

    def take(self, key: DiskKey, sent_bytes: int, now: float) -> None:
        """One report; call it once a second or so. Fewer bytes than before are a new beginning."""
        samples = self._samples.setdefault(key, deque())
        if samples and sent_bytes < samples[-1][1]:
            samples.clear()
        samples.append((now, sent_bytes))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW_S:
            samples.popleft()

    def used(self, key: DiskKey) -> float | None:
        """Bytes per second over the last seconds; None until there are enough."""
        samples = self._samples.get(key)
        if not samples or samples[-1][0] - samples[0][0] < WINDOW_S / 2:
            return None
        (first, before), (last, after) = samples[0], samples[-1]
        return (after - before) / (last - first)

    def keep(self, keys: set[DiskKey]) -> None:
        """Forget all others."""
        self._samples = {key: samples for key, samples in self._samples.items() if key in keys}
