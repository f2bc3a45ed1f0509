"""Which agents run a task: a pure choice over what the agents announced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from coriolis.coordinator.scheduler import roles_of
from coriolis.model.job import InstanceRun
from coriolis.model.task import Role, Side, Task


class Offer(msgspec.Struct, frozen=True):
    """One provider an agent offers. ``match``: patterns on connection_info members; empty means any endpoint."""

    type: str
    match: tuple[dict[str, str], ...] = ()

    def serves(self, connection_info: Mapping[str, Any]) -> bool:
        """Whether every member of one of the patterns fits."""
        return not self.match or any(
            all(fnmatchcase(str(connection_info.get(name, "")), glob) for name, glob in pattern.items())
            for pattern in self.match
        )


class Candidate(msgspec.Struct, frozen=True):
    """A connected agent. ``projects`` empty: serves all."""

    agent_id: str
    offers: tuple[Offer, ...]
    running_tasks: int = 0
    projects: tuple[str, ...] = ()

    def fits(self, provider: str, connection_info: Mapping[str, Any], project_id: str) -> bool:
        if self.projects and project_id not in self.projects:
            return False
        return any(offer.type == provider and offer.serves(connection_info) for offer in self.offers)

    def declares(self, provider: str) -> bool:
        """Whether the agent names endpoints of its own for that provider: it sits near them."""
        return any(offer.type == provider and offer.match for offer in self.offers)


class NotPlaced(msgspec.Struct, frozen=True):
    """Not now. ``reason``: one sentence; ``tell``: an operator can change it, so the task's events shall say it.

    ``code``: as in ``PlacementWaits``.
    """

    reason: str
    tell: bool = False
    code: str = ""


class Need(msgspec.Struct, frozen=True):
    """What one side of a task needs of an agent."""

    provider: str
    connection_info: dict[str, Any]


def side_of(task: Task, role: Role) -> Side:
    """The cloud that a part of a task works on."""
    if task.side is not Side.BOTH:
        return task.side
    return Side.DESTINATION if role is Role.SINK else Side.ORIGIN


def last_agent(run: InstanceRun, side: Side) -> str:
    """The agent that worked last on that side of the run: it holds journals and conversions. Empty when none."""
    best = ""
    for task in run.tasks:
        for part in task.parts:
            if side_of(task, part.role) is side:
                best = part.agent_id
    return best


def choose(
    run: InstanceRun, task: Task, needs: Mapping[Side, Need], candidates: Iterable[Candidate]
) -> dict[Role, str] | None:
    """An agent for each role, or None when one cannot be filled.

    Order of preference: the agent that worked on this side before, one that declared the endpoint as its own, one that
    is not already on the other side, the least loaded one, the smallest id.
    """
    everyone = list(candidates)
    chosen: dict[Role, str] = {}
    for role in roles_of(task):
        side = side_of(task, role)
        need = needs[side]
        fitting = [c for c in everyone if c.fits(need.provider, need.connection_info, run.project_id)]
        if not fitting:
            return None
        before = last_agent(run, side)
        other = last_agent(run, Side.ORIGIN if side is Side.DESTINATION else Side.DESTINATION)
        taken = {other, *chosen.values()}

        def rank(c: Candidate, before: str = before, taken: set[str] = taken, need: Need = need) -> tuple[Any, ...]:
            return (
                c.agent_id != before,
                not c.declares(need.provider),
                c.agent_id in taken,
                c.running_tasks,
                c.agent_id,
            )

        chosen[role] = min(fitting, key=rank).agent_id
    return chosen
