"""``/v1/{project_id}/links``: how sites reach each other, how far apart they are and how fast."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response

from gateway import answers, translate
from gateway.auth import Backend, permit
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import ProjectId, failures, success

router = APIRouter(prefix="/v1/{project_id}", tags=["mesh"])


@router.get(
    "/links",
    operation_id="list_links",
    summary="List the links between sites",
    response_class=Json,
    responses={**failures(), **success(answers.LinksAnswer)},
)
async def list_links(
    project_id: ProjectId, backend: Backend, caller: Annotated[Caller, permit("migration:links:list")]
) -> Response:
    """One for each site and each other one, as measured now. Agents that serve other projects only do not count."""
    return Json({"links": [translate.link(one) for one in await backend.list_links(caller.project_id)]})
