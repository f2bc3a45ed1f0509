"""The leader's shell around paths: has agents measure each other, hands out relay keys, knows how fast links are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from coriolis.coordinator.events import Placed
from coriolis.coordinator.link_speed import LinkSpeeds
from coriolis.coordinator.paths import Measured, NoPath, Path, Peer, choose_path
from coriolis.coordinator.placement import NotPlaced
from coriolis.coordinator.reachability import MAX_TARGETS, REFRESH_S, VALID_S, Reachability
from coriolis.model.job import InstanceRun
from coriolis.model.task import ASSIGNED, Road, Role, Task
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import types_pb2

log = structlog.get_logger(__name__)

ROUND_S = 1.0
FRESH_S = REFRESH_S + 30.0
"""A placement takes a measurement of this age without asking again ..."""
FRESH_RETRY_S = 5.0
"""... but not after a failed attempt, nor while there is no way: the network may have changed."""
MEASURE_WAIT_S = 6.0
"""How long a placement waits for measurements; then it goes on with what is known."""
MAX_RELAYS_ASKED = 6
MAX_WAITING = 10_000
"""Tasks remembered as waiting; a cancelled one is never taken off otherwise."""
KEYS_REPEAT_S = 300.0
"""Relays drop keys that no leader has named for 900 s."""

Send = Callable[[str, pb.SessionResponse], bool]
"""(agent id, message): False without a session."""


class Roads:
    """In memory of one term; a new leader has everything measured again within a minute."""

    def __init__(self, send: Send, relay_key: Callable[[str, int], bytes]) -> None:
        self.reachability = Reachability()
        self.speeds = LinkSpeeds()
        self._send = send
        self._relay_key = relay_key
        self._peers: dict[str, Peer] = {}
        self._sites: dict[str, str] = {}
        self._waiting_since: dict[str, float] = {}
        self._handed_out: dict[str, tuple[tuple[bytes, ...], float]] = {}

    # -- sessions -----------------------------------------------------------------------------------------------

    def opened(self, peer: Peer) -> None:
        self._peers[peer.agent_id] = peer
        self._sites[peer.agent_id] = peer.site
        self._handed_out.pop(peer.agent_id, None)
        self.reachability.forget(peer.agent_id)

    def closed(self, agent_id: str) -> None:
        self._peers.pop(agent_id, None)
        self.reachability.forget(agent_id)

    def peers(self) -> list[Peer]:
        """Agents with a session."""
        return list(self._peers.values())

    # -- measurements -------------------------------------------------------------------------------------------

    async def serve(self, runs: Callable[[], Iterable[InstanceRun]]) -> None:
        """Rounds of measurements, and keys to relays that lack them, until cancelled."""
        while True:
            self.ask_for_measurements()
            self.hand_out_keys(runs())
            await asyncio.sleep(ROUND_S)

    def ask_for_measurements(self) -> None:
        for agent_id, targets in self.reachability.due(self.peers(), now_s()).items():
            wish = pb.ProbePeers(
                targets=[
                    pb.ProbeTarget(agent_id=each.agent_id, address=each.address, identity=each.identity)
                    for each in targets[:MAX_TARGETS]
                ]
            )
            self._send(agent_id, pb.SessionResponse(probe_peers=wish))

    def take_results(self, dialler: str, answer: pb.ProbeResults) -> None:
        now = now_s()
        for result in answer.results[:MAX_TARGETS]:
            measured = Measured(result.reachable, max(0.0, result.rtt_ms), result.error[:200])
            self.reachability.record(dialler, result.agent_id, result.address, measured, now)

    def known(self, dialler: Peer, dialled: Peer) -> Measured | None:
        """What still counts, as old as it may be."""
        return self.reachability.known(dialler, dialled, now_s(), VALID_S)

    # -- placement ----------------------------------------------------------------------------------------------

    def placed(self, task: Task, project_id: str, agents: dict[Role, str], *, sure: bool = False) -> Placed | NotPlaced:
        """Add the road to agents that were chosen for a task of two; NotPlaced while it is being measured.

        ``sure``: only a path that was proved will do.
        """
        source, sink = self._peers[agents[Role.SOURCE]], self._peers[agents[Role.SINK]]
        path = self._path(task, source, sink, project_id)
        if path is None:
            return NotPlaced(f"it is being measured how {source.agent_id} and {sink.agent_id} reach each other")
        if isinstance(path, NoPath):
            return NotPlaced(path.reason, tell=True)
        if sure and not path.proved:
            return NotPlaced(f"whether {source.agent_id} and {sink.agent_id} reach each other is not known")
        self._waiting_since.pop(task.id, None)
        meeting = self._peers[path.meeting].address if path.meeting else ""
        road = Road(path.kind.value, path.meeting, meeting)
        return Placed(task.id, agents, road, path.sentence(source.agent_id, sink.agent_id))

    def _path(self, task: Task, source: Peer, sink: Peer, project_id: str) -> Path | NoPath | None:
        now = now_s()
        within_s = FRESH_RETRY_S if task.attempts or task.id in self._waiting_since else FRESH_S
        others = self.peers()
        fresh = choose_path(
            source, sink, others, lambda one, other: self.reachability.known(one, other, now, within_s), project_id
        )
        if isinstance(fresh, Path) and fresh.proved:
            return fresh
        relays = sorted((peer for peer in others if peer.relay), key=lambda peer: peer.agent_id)[:MAX_RELAYS_ASKED]
        pairs = [(source, sink), (sink, source), *((side, relay) for relay in relays for side in (source, sink))]
        since = self._waiting_since.setdefault(task.id, now)
        if len(self._waiting_since) > MAX_WAITING:
            self._waiting_since.pop(next(iter(self._waiting_since)))
        if self.reachability.want(pairs, now, within_s) and now - since < MEASURE_WAIT_S:
            self.ask_for_measurements()
            return None
        return choose_path(source, sink, others, self.known, project_id)

    # -- keys ---------------------------------------------------------------------------------------------------

    def hand_out_keys(self, runs: Iterable[InstanceRun]) -> None:
        """Tell each agent where others meet which keys are good, when that has changed or was not said for long."""
        good: dict[str, set[bytes]] = {agent_id: set() for agent_id in self._peers}
        for run in runs:
            for task in run.tasks:
                if task.road is not None and task.road.meeting in good and task.status in ASSIGNED:
                    good[task.road.meeting].add(self._relay_key(task.id, task.generation))
        now = now_s()
        for agent_id, keys in good.items():
            wanted = tuple(sorted(keys))
            said, at = self._handed_out.get(agent_id, (None, 0.0))
            if said == wanted and not (wanted and now - at > KEYS_REPEAT_S):
                continue
            if self._send(agent_id, pb.SessionResponse(relay_sessions=pb.RelaySessions(keys=wanted))):
                self._handed_out[agent_id] = (wanted, now)

    # -- speed --------------------------------------------------------------------------------------------------

    def moved(self, task: Task, disk: types_pb2.DiskProgress) -> None:
        """One report of a running disk, as its agent sent it."""
        source, sink = task.part(Role.SOURCE), task.part(Role.SINK)
        if source is None or sink is None:
            return
        link = (self._sites.get(source.agent_id, ""), self._sites.get(sink.agent_id, ""))
        if all(link):
            self.speeds.report(link, task.id, disk.disk_id, disk.sent_bytes, now_s())


def now_s() -> float:
    return asyncio.get_running_loop().time()
