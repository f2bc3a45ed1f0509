"""BandwidthService: what gateways, clients and operators may ask about bandwidth limits."""

from __future__ import annotations

from typing import Any

import grpc

from coriolis.clock import Clock
from coriolis.coordinator.bandwidth import Bandwidth
from coriolis.coordinator.job_service import check_project
from coriolis.errors import Denied
from coriolis.model.bandwidth import Scope, ScopeKind
from coriolis.rpc.gen.coriolis.v1 import bandwidth_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import bandwidth_pb2_grpc
from coriolis.rpc.identity import peer_identity
from coriolis.rpc.limits import answer_message, read_limit, read_scope

Context = grpc.aio.ServicerContext[Any, Any]


def check_scope(context: Context, scope: Scope) -> None:
    """A client may touch its project's jobs only; gateways and operators everything. Raises Denied."""
    if scope.kind is ScopeKind.JOB:
        check_project(context, scope.project_id)
    elif peer_identity(context).role == "client":
        raise Denied("limits of agents and links belong to the mesh's operators")


class BandwidthService(bandwidth_pb2_grpc.BandwidthServiceServicer):
    """The leader's limits."""

    def __init__(self, bandwidth: Bandwidth, clock: Clock) -> None:
        self._bandwidth = bandwidth
        self._clock = clock

    async def SetLimit(self, request: pb.SetLimitRequest, context: Context) -> pb.SetLimitResponse:
        limit = read_limit(request.limit, request.project_id)
        check_scope(context, limit.scope)
        made = await self._bandwidth.set(limit)
        return pb.SetLimitResponse(limit=answer_message(made, self._clock.now()))

    async def ListLimits(self, request: pb.ListLimitsRequest, context: Context) -> pb.ListLimitsResponse:
        check_project(context, request.project_id)
        if request.include_mesh and peer_identity(context).role == "client":
            raise Denied("limits of agents and links belong to the mesh's operators")
        now = self._clock.now()
        shown = [answer_message(limit, now) for limit in self._bandwidth.limits() if _shown(limit.scope, request)]
        return pb.ListLimitsResponse(limits=shown)

    async def DeleteLimit(self, request: pb.DeleteLimitRequest, context: Context) -> pb.DeleteLimitResponse:
        scope = read_scope(request.scope, request.project_id)
        check_scope(context, scope)
        await self._bandwidth.delete(scope)
        return pb.DeleteLimitResponse()


def _shown(scope: Scope, request: pb.ListLimitsRequest) -> bool:
    if scope.kind is ScopeKind.JOB:
        return scope.project_id == request.project_id
    return request.include_mesh
