"""ClusterService and SecretService: what the mesh consists of, and secrets by reference."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from coriolis.clock import wire_time
from coriolis.coordinator import keys
from coriolis.coordinator.directory import AgentDirectory
from coriolis.coordinator.job_service import check_project
from coriolis.coordinator.leadership import current_leader
from coriolis.coordinator.link_view import Limit, links, no_limit
from coriolis.coordinator.sessions import Sessions
from coriolis.errors import Unsupported
from coriolis.etcd.client import EtcdClient
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2_grpc, endpoint_pb2, endpoint_pb2_grpc
from coriolis.security.secrets import SecretRecord, SecretStore

Context = grpc.aio.ServicerContext[Any, Any]


class ClusterService(cluster_pb2_grpc.ClusterServiceServicer):
    """The leader's view; ``GetLeader`` alone is answered by every coordinator (see app)."""

    def __init__(
        self, client: EtcdClient, directory: AgentDirectory, sessions: Sessions, link_limit: Limit = no_limit
    ) -> None:
        self._client = client
        self._directory = directory
        self._sessions = sessions
        self._link_limit = link_limit

    async def GetLeader(self, request: pb.GetLeaderRequest, context: Context) -> pb.GetLeaderResponse:
        record = await current_leader(self._client)
        if record is None:
            return pb.GetLeaderResponse()
        return pb.GetLeaderResponse(coordinator_id=record.id, address=record.address, epoch=record.epoch)

    async def ListCoordinators(
        self, request: pb.ListCoordinatorsRequest, context: Context
    ) -> pb.ListCoordinatorsResponse:
        listing = await self._client.list(keys.COORDINATORS)
        leader = await current_leader(self._client)
        found = []
        for item in listing.items.values():
            coordinator = pb.Coordinator.FromString(item.value)
            coordinator.leader = leader is not None and leader.id == coordinator.id
            found.append(coordinator)
        return pb.ListCoordinatorsResponse(coordinators=found)

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=self._directory.agents(self._sessions.connected()))

    async def ListLinks(self, request: pb.ListLinksRequest, context: Context) -> pb.ListLinksResponse:
        roads, now = self._sessions.roads, asyncio.get_running_loop().time()
        found = links(
            roads.peers(),
            roads.known,
            lambda link: roads.speeds.now(link, now),
            lambda link: roads.speeds.best(link, now),
            request.project_id,
            self._link_limit,
        )
        return pb.ListLinksResponse(links=found)


class SecretService(endpoint_pb2_grpc.SecretServiceServicer):
    """Payloads go in and never come out again, except to the agent that works with them."""

    def __init__(self, store: SecretStore | None) -> None:
        """None: secrets are kept elsewhere, and every call says so."""
        self._kept = store

    @property
    def _store(self) -> SecretStore:
        if self._kept is None:
            raise Unsupported("secrets are kept in Barbican here; use its API, e.g. 'openstack secret store'")
        return self._kept

    async def PutSecret(
        self, request: endpoint_pb2.PutSecretRequest, context: Context
    ) -> endpoint_pb2.PutSecretResponse:
        check_project(context, request.project_id)
        info = await self._store.put(request.project_id, request.name, request.payload_json.encode())
        return endpoint_pb2.PutSecretResponse(secret=_info_message(info))

    async def ListSecrets(
        self, request: endpoint_pb2.ListSecretsRequest, context: Context
    ) -> endpoint_pb2.ListSecretsResponse:
        check_project(context, request.project_id)
        infos = await self._store.list(request.project_id)
        return endpoint_pb2.ListSecretsResponse(secrets=[_info_message(info) for info in infos])

    async def DeleteSecret(
        self, request: endpoint_pb2.DeleteSecretRequest, context: Context
    ) -> endpoint_pb2.DeleteSecretResponse:
        check_project(context, request.project_id)
        await self._store.delete(request.project_id, request.secret_id)
        return endpoint_pb2.DeleteSecretResponse()


def _info_message(info: SecretRecord) -> endpoint_pb2.SecretInfo:
    return endpoint_pb2.SecretInfo(id=info.id, name=info.name, created_at=wire_time(info.created_at))
