"""``/v1/{project_id}/bandwidth-limits``: how much disk data may be on the road, per agent, link and job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response

from coriolis.clock import wire_time
from coriolis.model.bandwidth import Limit, Rate, Scope, ScopeKind, check
from coriolis.model.bandwidth_text import format_rate, format_window, parse_rate, parse_window
from coriolis.rpc.gen.coriolis.v1 import bandwidth_pb2 as pb
from coriolis.rpc.limits import read_limit
from gateway import answers, policy
from gateway.auth import Backend, permit
from gateway.backend import MeshBackend
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import BODY_FAILURES, MigrationId, ProjectId, failures, success
from gateway.schemas import BandwidthLimitBody, BandwidthLimitIn
from gateway.translate import Document

router = APIRouter(prefix="/v1/{project_id}/bandwidth-limits", tags=["bandwidth limits"])

SEES_MESH = "migration:bandwidth_limits:see_mesh"
AgentName = Annotated[str, Path(description="Id of an agent", examples=["agent-paris"])]
OriginSite = Annotated[str, Path(description="Site of the agent that sends", examples=["paris"])]
DestinationSite = Annotated[str, Path(description="Site of the agent that receives", examples=["oslo"])]
OfMesh = Annotated[Caller, permit("migration:bandwidth_limits:set_mesh")]
OfJob = Annotated[Caller, permit("migration:bandwidth_limits:set_job")]

_SET = {**failures(*BODY_FAILURES), **success(answers.BandwidthLimitAnswer, "In force")}
_DELETED = failures(400)


def shown(message: pb.BandwidthLimit) -> Document:
    """One limit: what was set, what is in force now, and what comes next."""
    limit = read_limit(message, "")
    now: Rate = message.rate_now_bytes_per_s if message.HasField("rate_now_bytes_per_s") else None
    after: Rate = message.next_rate_bytes_per_s if message.HasField("next_rate_bytes_per_s") else None
    change = {"at": message.next_change_at, "rate": format_rate(after), "rate_bytes_per_s": after}
    return {
        "scope": limit.scope.kind.value,
        "name": limit.scope.name,
        "rate": format_rate(limit.rate),
        "rate_bytes_per_s": limit.rate,
        "calendar": [format_window(window) for window in limit.windows],
        "time_zone": limit.time_zone,
        "rate_now": format_rate(now),
        "rate_now_bytes_per_s": now,
        "next_change": change if message.next_change_at else None,
        "created_at": message.created_at or wire_time(datetime.now(UTC)),
        "updated_at": message.updated_at or None,
        "deleted_at": None,
        "deleted": "0",
    }


async def _set(backend: MeshBackend, caller: Caller, scope: Scope, body: BandwidthLimitIn) -> Response:
    prefix = "bandwidth_limit."
    calendar = [parse_window(text, f"{prefix}calendar.{number}") for number, text in enumerate(body.calendar or [])]
    rate = parse_rate(body.rate, f"{prefix}rate")
    limit = check(Limit(scope, rate, tuple(calendar), body.time_zone or "UTC"))
    return Json({"bandwidth_limit": shown(await backend.set_limit(caller.project_id, limit))})


async def _delete(backend: MeshBackend, caller: Caller, scope: Scope) -> Response:
    await backend.delete_limit(caller.project_id, scope)
    return Response(status_code=204)


@router.get(
    "",
    operation_id="list_bandwidth_limits",
    summary="List bandwidth limits",
    response_class=Json,
    responses={**failures(), **success(answers.BandwidthLimitsAnswer)},
)
async def list_limits(
    project_id: ProjectId, backend: Backend, caller: Annotated[Caller, permit("migration:bandwidth_limits:list")]
) -> Response:
    """Those of the project's jobs; for admins also those of agents and links."""
    sees_mesh = policy.allows(SEES_MESH, caller.roles)
    found = await backend.list_limits(caller.project_id, include_mesh=sees_mesh)
    return Json({"bandwidth_limits": [shown(one) for one in found]})


@router.put(
    "/agent/{agent}",
    operation_id="set_agent_bandwidth_limit",
    summary="Limit what an agent sends and receives",
    response_class=Json,
    responses=_SET,
)
async def set_agent(
    project_id: ProjectId, agent: AgentName, body: BandwidthLimitBody, backend: Backend, caller: OfMesh
) -> Response:
    """Sending and receiving count together, for all projects. Replaces an earlier limit."""
    return await _set(backend, caller, Scope(ScopeKind.AGENT, agent), body.bandwidth_limit)


@router.delete(
    "/agent/{agent}",
    operation_id="delete_agent_bandwidth_limit",
    summary="Remove an agent's limit",
    status_code=204,
    response_class=Response,
    responses=_DELETED,
)
async def delete_agent(project_id: ProjectId, agent: AgentName, backend: Backend, caller: OfMesh) -> Response:
    """404 when there is none."""
    return await _delete(backend, caller, Scope(ScopeKind.AGENT, agent))


@router.put(
    "/link/{origin_site}/{destination_site}",
    operation_id="set_link_bandwidth_limit",
    summary="Limit what goes from one site to another",
    response_class=Json,
    responses=_SET,
)
async def set_link(
    project_id: ProjectId,
    origin_site: OriginSite,
    destination_site: DestinationSite,
    body: BandwidthLimitBody,
    backend: Backend,
    caller: OfMesh,
) -> Response:
    """One direction, for all projects. Replaces an earlier limit."""
    return await _set(backend, caller, _link(origin_site, destination_site), body.bandwidth_limit)


@router.delete(
    "/link/{origin_site}/{destination_site}",
    operation_id="delete_link_bandwidth_limit",
    summary="Remove a link's limit",
    status_code=204,
    response_class=Response,
    responses=_DELETED,
)
async def delete_link(
    project_id: ProjectId, origin_site: OriginSite, destination_site: DestinationSite, backend: Backend, caller: OfMesh
) -> Response:
    """404 when there is none."""
    return await _delete(backend, caller, _link(origin_site, destination_site))


@router.put(
    "/job/{migration_id}",
    operation_id="set_job_bandwidth_limit",
    summary="Limit what a migration sends",
    response_class=Json,
    responses=_SET,
)
async def set_job(
    project_id: ProjectId, migration_id: MigrationId, body: BandwidthLimitBody, backend: Backend, caller: OfJob
) -> Response:
    """All of its disks together. Replaces an earlier limit; it goes when the migration is deleted."""
    return await _set(backend, caller, Scope(ScopeKind.JOB, migration_id, caller.project_id), body.bandwidth_limit)


@router.delete(
    "/job/{migration_id}",
    operation_id="delete_job_bandwidth_limit",
    summary="Remove a migration's limit",
    status_code=204,
    response_class=Response,
    responses=_DELETED,
)
async def delete_job(project_id: ProjectId, migration_id: MigrationId, backend: Backend, caller: OfJob) -> Response:
    """404 when there is none."""
    return await _delete(backend, caller, Scope(ScopeKind.JOB, migration_id, caller.project_id))


def _link(origin_site: str, destination_site: str) -> Scope:
    return Scope(ScopeKind.LINK, f"{origin_site}/{destination_site}")
