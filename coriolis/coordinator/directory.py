"""Who is in the mesh: coordinators and agents as they registered in etcd, agents' sessions as the leader sees them."""

from __future__ import annotations

from coriolis.rpc.gen.coriolis.v1 import cluster_pb2


class AgentDirectory:
    """Registered agents and whether their lease lives. Fed by a watch on ``agents/``."""

    def __init__(self) -> None:
        self._specs: dict[str, cluster_pb2.Agent] = {}
        self._live: set[str] = set()
        self.loaded = False
        """Whether all registrations were read once."""

    def put_spec(self, agent: cluster_pb2.Agent) -> None:
        self._specs[agent.id] = agent

    def drop_spec(self, agent_id: str) -> None:
        self._specs.pop(agent_id, None)

    def set_live(self, agent_id: str, live: bool) -> None:
        if live:
            self._live.add(agent_id)
        else:
            self._live.discard(agent_id)

    def is_live(self, agent_id: str) -> bool:
        return agent_id in self._live

    def site(self, agent_id: str) -> str:
        """Where a registered agent is; empty for an unknown one."""
        agent = self._specs.get(agent_id)
        return agent.site if agent is not None else ""

    def sites(self) -> set[str]:
        """Of all registered agents."""
        return {agent.site for agent in self._specs.values()}

    def providers(self) -> dict[str, cluster_pb2.ProviderInfo]:
        """Provider types any registered agent offers, with their schemas."""
        return {info.type: info for agent in self._specs.values() for info in agent.providers}

    def agents(self, connected: dict[str, cluster_pb2.Agent]) -> list[cluster_pb2.Agent]:
        """All known agents, sorted by id, with ``alive`` and ``connected`` filled in."""
        found = []
        for agent_id in sorted({*self._specs, *connected}):
            agent = cluster_pb2.Agent()
            agent.CopyFrom(connected.get(agent_id) or self._specs[agent_id])
            agent.alive = agent_id in self._live or agent_id in connected
            found.append(agent)
        return found
