"""One connected agent, as the leader keeps it."""

from __future__ import annotations

import asyncio
import json

from coriolis.coordinator.paths import Peer
from coriolis.coordinator.placement import Candidate, Offer
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2
from coriolis.rpc.identity import Identity

OUTBOUND_MESSAGES = 10_000


class AgentSession:
    """One connected agent."""

    def __init__(self, agent: cluster_pb2.Agent, identity: Identity) -> None:
        self.agent = agent
        self.identity = identity
        self.outbound: asyncio.Queue[pb.SessionResponse | None] = asyncio.Queue(OUTBOUND_MESSAGES)
        self.running = 0
        self.last_heard = asyncio.get_running_loop().time()

    def send(self, message: pb.SessionResponse) -> bool:
        """False when the agent does not read: its session is about to end."""
        try:
            self.outbound.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    def send_end(self) -> None:
        """Let the writer end the stream; a full queue means nobody reads it."""
        if self.outbound.full():
            self.outbound.get_nowait()
        self.outbound.put_nowait(None)

    def candidate(self) -> Candidate:
        offers = tuple(Offer(info.type, tuple(json.loads(info.match_json or "[]"))) for info in self.agent.providers)
        return Candidate(self.agent.id, offers, self.running, tuple(self.agent.projects))

    def peer(self) -> Peer:
        agent = self.agent
        return Peer(agent.id, agent.site, agent.data_address, str(self.identity), agent.relay, tuple(agent.projects))
