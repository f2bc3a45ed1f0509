"""``/v1/{project_id}/services`` and ``/providers``: what the mesh consists of and what it can do."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Response

from coriolis.errors import NotFound
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2
from gateway import answers, translate
from gateway.auth import Backend, permit
from gateway.backend import MeshBackend
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import ProjectId, failures, success

router = APIRouter(prefix="/v1/{project_id}", tags=["mesh"])

MAX_ID_SHOWN = 64


async def _services(backend: MeshBackend, caller: Caller) -> list[translate.Document]:
    agents, coordinators = await asyncio.gather(backend.list_agents(caller.project_id), backend.list_coordinators())
    found = [translate.coordinator_service(one) for one in coordinators]
    found += [translate.agent_service(one) for one in agents]
    return sorted(found, key=lambda service: (service["binary"], service["id"]))


@router.get(
    "/services",
    operation_id="list_services",
    summary="List agents and coordinators",
    response_class=Json,
    responses={**failures(), **success(answers.ServicesAnswer)},
)
@router.get("/services/detail", response_class=Json, include_in_schema=False)
async def list_services(
    project_id: ProjectId, backend: Backend, caller: Annotated[Caller, permit("migration:services:list")]
) -> Response:
    """Agents that serve other projects only are left out."""
    return Json({"services": await _services(backend, caller)})


@router.get(
    "/services/{service_id}",
    operation_id="show_service",
    summary="Show an agent or a coordinator",
    response_class=Json,
    responses={**failures(), **success(answers.ServiceAnswer)},
)
async def show_service(
    project_id: ProjectId,
    service_id: Annotated[str, Path(description="Id of an agent or coordinator")],
    backend: Backend,
    caller: Annotated[Caller, permit("migration:services:show")],
) -> Response:
    """One of the list."""
    for service in await _services(backend, caller):
        if service["id"] == service_id:
            return Json({"service": service})
    raise NotFound(f'Service with ID "{service_id[:MAX_ID_SHOWN]}" not found.')


async def _providers(backend: MeshBackend, caller: Caller) -> dict[str, cluster_pb2.ProviderInfo]:
    agents = await backend.list_agents(caller.project_id)
    return {info.type: info for agent in agents for info in agent.providers}


@router.get(
    "/providers",
    operation_id="list_providers",
    summary="List the clouds that agents can work with",
    response_class=Json,
    responses={**failures(), **success(answers.ProvidersAnswer)},
)
async def list_providers(
    project_id: ProjectId, backend: Backend, caller: Annotated[Caller, permit("migration:providers:list")]
) -> Response:
    """``types`` are the integers that clients of this API know."""
    found = await _providers(backend, caller)
    return Json({"providers": {name: {"types": translate.provider_types(info)} for name, info in found.items()}})


@router.get(
    "/providers/{platform}/schemas/{type_number}",
    operation_id="show_provider_schemas",
    summary="Show a JSON schema of a provider",
    response_class=Json,
    responses={**failures(400), **success(answers.SchemasAnswer)},
)
async def show_schemas(
    project_id: ProjectId,
    platform: Annotated[str, Path(description="Provider type", examples=["libvirt"])],
    type_number: Annotated[int, Path(description="4 destination, 8 source, 16 connection", ge=0, le=1 << 31)],
    backend: Backend,
    caller: Annotated[Caller, permit("migration:providers:list")],
) -> Response:
    """Empty for a number without a schema."""
    info = (await _providers(backend, caller)).get(platform)
    if info is None:
        raise NotFound(f'Provider "{platform[:MAX_ID_SHOWN]}" not found.')
    return Json({"schemas": translate.provider_schema(info, type_number) or {}})
