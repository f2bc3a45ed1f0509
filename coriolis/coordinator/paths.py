"""Which way the bytes of a disk take between two agents: a pure choice over what agents announced and measured."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

import msgspec


class PathKind(enum.StrEnum):
    """Who dials whom."""

    DIALLED = "dialled"  # the source dials the sink
    REVERSE = "reverse"  # the sink dials the source's agent
    RELAY = "relay"  # both dial a third agent


class Peer(msgspec.Struct, frozen=True):
    """An agent with a session. ``address``: host:port of its data port, empty when nobody can dial it.

    ``projects`` empty: serves all. ``relay``: willing to copy bytes between two others.
    """

    agent_id: str
    site: str
    address: str
    identity: str = ""
    relay: bool = False
    projects: tuple[str, ...] = ()

    def serves(self, project_id: str) -> bool:
        return not self.projects or project_id in self.projects


class Measured(msgspec.Struct, frozen=True):
    """What dialling an agent came to. ``rtt_ms`` is 0 unless reachable."""

    reachable: bool
    rtt_ms: float = 0.0
    error: str = ""


View = Callable[[Peer, Peer], Measured | None]
"""(who dials, who is dialled) -> the last measurement that still counts, or None when there is none."""


class Path(msgspec.Struct, frozen=True):
    """``meeting``: id of the agent at whose data port both sides meet; empty when dialled.

    ``rtt_ms`` of the whole path, None while it is not measured; ``proved`` tells whether all of it was.
    """

    kind: PathKind
    meeting: str = ""
    rtt_ms: float | None = None
    proved: bool = True

    def sentence(self, source: str, sink: str) -> str:
        """For a task's events."""
        match self.kind:
            case PathKind.DIALLED:
                return f"path dialled: {source} dials {sink}"
            case PathKind.REVERSE:
                return f"path reverse: {sink} dials {source}, which cannot dial it"
            case PathKind.RELAY:
                return f"path relay: {source} and {sink} both dial {self.meeting}, which copies encrypted bytes"


class NoPath(msgspec.Struct, frozen=True):
    """``reason``: one sentence that says what to do."""

    reason: str


def can_dial(dialler: Peer, dialled: Peer, view: View) -> Measured | None:
    """What is known of it; an agent that announces no address cannot be dialled, whatever was measured."""
    if not dialled.address:
        return Measured(reachable=False, error=f"{dialled.agent_id} has inbound = none")
    return view(dialler, dialled)


def choose_path(source: Peer, sink: Peer, others: Iterable[Peer], view: View, project_id: str = "") -> Path | NoPath:
    """The way from ``source`` to ``sink``: dialled unless known to fail, then reverse, then the best relay.

    Best relay: lowest sum of round trips, then one at a site of the two, then the smallest id. A relay of other
    projects is none.
    """
    if source.agent_id == sink.agent_id:
        return Path(PathKind.DIALLED, rtt_ms=0.0)
    forth = can_dial(source, sink, view)
    if forth is not None and forth.reachable:
        return Path(PathKind.DIALLED, rtt_ms=forth.rtt_ms)
    back = can_dial(sink, source, view)
    if back is not None and back.reachable and forth is not None:
        return Path(PathKind.REVERSE, source.agent_id, back.rtt_ms)
    if forth is None:
        return Path(PathKind.DIALLED, proved=False)
    relays = list(_relays(source, sink, others, view, project_id))
    if relays:
        rtt, relay = min(relays, key=lambda each: _rank(each, source, sink))
        return Path(PathKind.RELAY, relay.agent_id, rtt)
    if back is None and source.address:
        return Path(PathKind.REVERSE, source.agent_id, proved=False)
    return NoPath(_why_none(source, sink, forth, back))


def _relays(
    source: Peer, sink: Peer, others: Iterable[Peer], view: View, project_id: str
) -> Iterable[tuple[float, Peer]]:
    for other in others:
        if not other.relay or other.agent_id in (source.agent_id, sink.agent_id) or not other.serves(project_id):
            continue
        legs = can_dial(source, other, view), can_dial(sink, other, view)
        if legs[0] is not None and legs[1] is not None and legs[0].reachable and legs[1].reachable:
            yield legs[0].rtt_ms + legs[1].rtt_ms, other


def _rank(found: tuple[float, Peer], source: Peer, sink: Peer) -> tuple[float, bool, str]:
    rtt, relay = found
    # tenths of a millisecond are noise: between equals, a neighbour of one of the two sides
    return round(rtt), relay.site not in (source.site, sink.site), relay.agent_id


def _why_none(source: Peer, sink: Peer, forth: Measured, back: Measured | None) -> str:
    back_error = back.error if back is not None else "not measured"
    return (
        f"neither {sink.agent_id} ({forth.error}) nor {source.agent_id} ({back_error}) can be dialled by the other and "
        "no relay both reach: open the data ports of one of them to the other, or set relay = true on an agent that "
        "both can dial"
    )
