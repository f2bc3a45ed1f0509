"""What ``ListLinks`` answers: for each site and each other one, the best way between their agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from coriolis.coordinator.paths import NoPath, Path, PathKind, Peer, View, can_dial, choose_path
from coriolis.coordinator.reachability import sites_of
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2 as pb

MAX_LINKS = 1000
MAX_AGENTS_PER_SITE = 4
"""Looked at per site: enough to tell how sites reach each other."""

Limit = Callable[[tuple[str, str]], float | None]
"""(origin site, destination site) -> bytes per second in force now; None: no limit, 0: a pause."""
Speed = Callable[[tuple[str, str]], float]
"""(origin site, destination site) -> bytes per second."""

_ORDER = {PathKind.DIALLED: 0, PathKind.REVERSE: 1, PathKind.RELAY: 2}


def no_limit(_: tuple[str, str]) -> float | None:
    """For a leader without limits."""
    return None


def links(
    peers: Sequence[Peer],
    view: View,
    speed: Speed,
    best_speed: Speed,
    project_id: str = "",
    limit: Limit = no_limit,
) -> list[pb.Link]:
    """At most MAX_LINKS, by origin and destination site; ``project_id`` leaves out agents of other projects."""
    seen = [peer for peer in peers if not project_id or peer.serves(project_id)]
    found: list[pb.Link] = []
    for origin, destination in _pairs(seen):
        link = _link(origin[:MAX_AGENTS_PER_SITE], destination[:MAX_AGENTS_PER_SITE], seen, view, project_id)
        sites = (link.origin_site, link.destination_site)
        link.speed_bytes_per_s, link.best_speed_bytes_per_s = int(speed(sites)), int(best_speed(sites))
        if (limited := limit(sites)) is not None:
            link.limit_bytes_per_s = int(limited)
        found.append(link)
        if len(found) == MAX_LINKS:
            break
    return found


def _pairs(peers: Sequence[Peer]) -> Iterator[tuple[list[Peer], list[Peer]]]:
    sites = sites_of(peers)
    for origin in sites:
        for destination in sites:
            if origin != destination:
                yield sites[origin], sites[destination]


def _link(
    origin: Sequence[Peer], destination: Sequence[Peer], peers: Sequence[Peer], view: View, project_id: str
) -> pb.Link:
    """Of the best pair of agents: proved before unproved, dialled before reverse before relay, the shorter one."""
    choices = [
        (source, sink, choose_path(source, sink, peers, view, project_id)) for source in origin for sink in destination
    ]
    source, sink, path = min(choices, key=lambda each: (_rank(each[2]), each[0].agent_id, each[1].agent_id))
    link = pb.Link(
        origin_site=source.site,
        destination_site=sink.site,
        agents=[source.agent_id, sink.agent_id],
        rtt_ms=-1.0,
    )
    if isinstance(path, NoPath):
        link.state, link.why = "CLOSED", path.reason
        return link
    link.path, link.why = path.kind.value, _why(source, sink, path, view)
    link.state = "OPEN" if path.proved else "UNKNOWN"
    if path.rtt_ms is not None:
        link.rtt_ms = path.rtt_ms
    if path.kind is PathKind.RELAY:
        link.relay = path.meeting
    return link


def _rank(path: Path | NoPath) -> tuple[int, int, float]:
    if isinstance(path, NoPath):
        return 2, 0, 0.0
    return int(not path.proved), _ORDER[path.kind], path.rtt_ms or 0.0


def _why(source: Peer, sink: Peer, path: Path, view: View) -> str:
    if not path.proved:
        return "not measured yet; a transfer would try"
    forth = can_dial(source, sink, view)
    sentence = path.sentence(source.agent_id, sink.agent_id)
    return f"{sentence} ({forth.error})" if forth is not None and forth.error else sentence
