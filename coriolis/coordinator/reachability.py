"""Who can dial whom: measurements of the agents, and which ones to ask for next. Pure; times are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from coriolis.coordinator.paths import Measured, Peer

REFRESH_S = 60.0
"""A measurement is repeated after this long."""
VALID_S = 600.0
"""A measurement that could not be repeated for this long says nothing any more."""
ANSWER_S = 10.0
"""A pair that was asked for is not asked for again before its answer had this long."""
MAX_TARGETS = 16
WINDOW_S = 30.0
"""An agent is asked for at most MAX_TARGETS pairs in a window of this length."""
MAX_AGENTS_PER_ROUND = 50
"""Agents looked at in one round: a round over n agents costs at most 50 n."""
MAX_PAIRS = 100_000
"""Pairs remembered; the oldest give way."""

Pair = tuple[str, str]
"""(id of the agent that dials, id of the dialled one)."""


class _Entry(msgspec.Struct):
    address: str
    measured: Measured
    at: float


class Reachability:
    """All that is known about pairs of agents."""

    def __init__(self) -> None:
        self._entries: dict[Pair, _Entry] = {}
        self._asked: dict[Pair, float] = {}
        self._sent: dict[str, list[float]] = {}
        self._urgent: dict[Pair, float] = {}
        self._turn = 0

    def record(self, dialler: str, dialled: str, address: str, measured: Measured, now: float) -> None:
        """One answer; ``address`` is the one that was dialled."""
        self._entries.pop((dialler, dialled), None)
        self._entries[dialler, dialled] = _Entry(address, measured, now)
        self._urgent.pop((dialler, dialled), None)
        self._asked.pop((dialler, dialled), None)
        if len(self._entries) > MAX_PAIRS:
            self._entries.pop(next(iter(self._entries)))

    def known(self, dialler: Peer, dialled: Peer, now: float, within_s: float = VALID_S) -> Measured | None:
        """The last measurement, unless it is older than ``within_s`` or of another address."""
        entry = self._entries.get((dialler.agent_id, dialled.agent_id))
        if entry is None or entry.address != dialled.address or now - entry.at > within_s:
            return None
        return entry.measured

    def want(self, pairs: Iterable[tuple[Peer, Peer]], now: float, within_s: float) -> bool:
        """Ask for those pairs at the next round; False when all are known since ``within_s`` or cannot be asked."""
        waiting = False
        for dialler, dialled in pairs:
            if dialler.agent_id == dialled.agent_id or not dialled.address:
                continue
            if self.known(dialler, dialled, now, within_s) is None:
                self._urgent.setdefault((dialler.agent_id, dialled.agent_id), now)
                waiting = True
        return waiting

    def forget(self, agent_id: str) -> None:
        """The agent's session ended: what it was asked for will not be answered."""
        self._sent.pop(agent_id, None)
        for pair in [pair for pair in self._asked if pair[0] == agent_id]:
            del self._asked[pair]

    def due(self, peers: Sequence[Peer], now: float) -> dict[str, list[Peer]]:
        """Whom each agent shall dial now: what a placement waits for, then what is unknown, then what is old.

        Marks them as asked. Agents of one site are only asked about relays; those without a project in common never.
        """
        by_id = {peer.agent_id: peer for peer in peers}
        rounds: dict[str, list[Peer]] = {}
        for pair, since in list(self._urgent.items()):
            if pair[0] not in by_id or pair[1] not in by_id or now - since > ANSWER_S:
                del self._urgent[pair]
            elif self._may_ask(pair, now):
                self._ask(rounds, by_id[pair[0]], by_id[pair[1]], now)
        if peers:
            ordered = sorted(peers, key=lambda peer: peer.agent_id)
            start = self._turn % len(ordered)
            for dialler in (ordered[start:] + ordered[:start])[:MAX_AGENTS_PER_ROUND]:
                for dialled in self._old(dialler, ordered, now):
                    self._ask(rounds, dialler, dialled, now)
            self._turn = start + MAX_AGENTS_PER_ROUND
        return rounds

    def _old(self, dialler: Peer, peers: Iterable[Peer], now: float) -> list[Peer]:
        """The pairs of ``dialler`` that want a refresh, the oldest first."""
        if not self._room(dialler.agent_id, now):
            return []
        found: list[tuple[float, str, Peer]] = []
        for dialled in peers:
            pair = (dialler.agent_id, dialled.agent_id)
            if not _worth_asking(dialler, dialled) or not self._may_ask(pair, now):
                continue
            entry = self._entries.get(pair)
            at = entry.at if entry is not None and entry.address == dialled.address else float("-inf")
            if now - at > REFRESH_S:
                found.append((at, dialled.agent_id, dialled))
        return [dialled for _, _, dialled in sorted(found, key=lambda each: each[:2])]

    def _may_ask(self, pair: Pair, now: float) -> bool:
        return now - self._asked.get(pair, float("-inf")) > ANSWER_S

    def _room(self, agent_id: str, now: float) -> int:
        sent = [at for at in self._sent.get(agent_id, []) if now - at < WINDOW_S]
        self._sent[agent_id] = sent
        return MAX_TARGETS - len(sent)

    def _ask(self, rounds: dict[str, list[Peer]], dialler: Peer, dialled: Peer, now: float) -> None:
        if self._room(dialler.agent_id, now) <= 0:
            return
        self._sent[dialler.agent_id].append(now)
        self._asked[dialler.agent_id, dialled.agent_id] = now
        rounds.setdefault(dialler.agent_id, []).append(dialled)


def _worth_asking(dialler: Peer, dialled: Peer) -> bool:
    if dialler.agent_id == dialled.agent_id or not dialled.address:
        return False
    if dialler.site == dialled.site and not dialled.relay:
        return False
    return not dialler.projects or not dialled.projects or not set(dialler.projects).isdisjoint(dialled.projects)


def sites_of(peers: Iterable[Peer]) -> Mapping[str, list[Peer]]:
    """Agents by site, both sorted."""
    found: dict[str, list[Peer]] = {}
    for peer in sorted(peers, key=lambda peer: (peer.site, peer.agent_id)):
        found.setdefault(peer.site, []).append(peer)
    return found
