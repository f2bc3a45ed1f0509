"""The time limits of leadership and presence, and the inequalities that make them safe
(docs/design/timeouts.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coriolis.errors import InvalidInput
from coriolis.etcd.client import CALL_TIMEOUT_S
from coriolis.etcd.endpoints import KEEPALIVE_S, KEEPALIVE_TIMEOUT_S

ETCD_MINIMUM_TTL_S = 2
"""etcd raises a smaller TTL to this (1.5 × its election timeout of 1 s, rounded up)."""
ETCD_ELECTION_S = 2.0
"""How long etcd itself may be without a leader after losing a node."""
WATCH_DETECTION_S = float(KEEPALIVE_S + KEEPALIVE_TIMEOUT_S)
"""How long a watch may sit on a dead member before it moves to another."""
CLOCK_DRIFT = 0.01
"""By how much two monotonic clocks may differ in speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds. The defaults are what is shipped."""

    leader_ttl_s: int = 10
    """etcd gives the leader key away this long after the last keep-alive."""
    leader_keepalive_s: float = 3.0
    leader_step_down_s: float = 6.0
    """By its own clock a leader stops this long after it sent the last confirmed keep-alive."""
    leader_write_timeout_s: float = 3.0
    """Deadline of a leader's write, so that none is on its way when the key is given away."""
    agent_ttl_s: int = 15
    agent_keepalive_s: float = 5.0
    takeover_bound_s: float = 25.0
    """A new leader works this long after the old one died."""

    def takeover_s(self) -> float:
        """Worst case of a take-over: expiry, etcd's own election, a watch on a dead member, one claim."""
        return self.leader_ttl_s + ETCD_ELECTION_S + WATCH_DETECTION_S + CALL_TIMEOUT_S


_RULES: tuple[tuple[str, Callable[[Timeouts], bool]], ...] = (
    ("0 < leader_keepalive_s", lambda t: t.leader_keepalive_s > 0),
    ("0 < leader_write_timeout_s", lambda t: t.leader_write_timeout_s > 0),
    ("0 < agent_keepalive_s", lambda t: t.agent_keepalive_s > 0),
    (
        "2 * leader_keepalive_s <= leader_step_down_s",
        lambda t: 2 * t.leader_keepalive_s <= t.leader_step_down_s,
    ),
    (
        "leader_step_down_s + leader_write_timeout_s <= 0.99 * leader_ttl_s",
        lambda t: t.leader_step_down_s + t.leader_write_timeout_s <= (1 - CLOCK_DRIFT) * t.leader_ttl_s,
    ),
    ("2 * agent_keepalive_s < agent_ttl_s", lambda t: 2 * t.agent_keepalive_s < t.agent_ttl_s),
    (f"{ETCD_MINIMUM_TTL_S} <= leader_ttl_s", lambda t: t.leader_ttl_s >= ETCD_MINIMUM_TTL_S),
    (f"{ETCD_MINIMUM_TTL_S} <= agent_ttl_s", lambda t: t.agent_ttl_s >= ETCD_MINIMUM_TTL_S),
    (
        f"leader_ttl_s + {ETCD_ELECTION_S + WATCH_DETECTION_S + CALL_TIMEOUT_S:g} <= takeover_bound_s",
        lambda t: t.takeover_s() <= t.takeover_bound_s,
    ),
)


def broken_rules(timeouts: Timeouts) -> list[str]:
    """The inequalities that do not hold, as text; empty for a legal set."""
    return [text for text, holds in _RULES if not holds(timeouts)]


def validate(timeouts: Timeouts) -> None:
    """InvalidInput names every inequality that does not hold."""
    broken = broken_rules(timeouts)
    if broken:
        raise InvalidInput(f"illegal timeouts: {'; '.join(broken)} must hold")
