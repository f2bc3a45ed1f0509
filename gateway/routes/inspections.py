"""``/v1/{project_id}/inspections``: what a guest is and what conversion would do with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response

from gateway import inspection_answers as answers
from gateway import translate
from gateway.auth import Backend, permit
from gateway.delegation import trust_for
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import BODY_FAILURES, ProjectId, failures, success
from gateway.schemas import CreateInspectionBody

router = APIRouter(prefix="/v1/{project_id}/inspections", tags=["inspections"])


@router.post(
    "",
    operation_id="create_inspection",
    summary="Look into a machine's disks",
    response_class=Json,
    responses={**failures(*BODY_FAILURES), **success(answers.InspectionAnswer, "The inspection that was started")},
)
async def create(
    request: Request,
    project_id: ProjectId,
    body: CreateInspectionBody,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:inspections:create")],
) -> Response:
    """Answers at once; ask for it by its id. The machine is not changed; one that runs is read from a snapshot."""
    trust_id = await trust_for(request, caller, body.inspection.origin.connection_info)
    started = await backend.start_inspection(translate.inspection_request(caller, body.inspection, trust_id))
    return Json({"inspection": translate.inspection(started)})


@router.get(
    "/{inspection_id}",
    operation_id="show_inspection",
    summary="Show what an inspection found",
    response_class=Json,
    responses={**failures(), **success(answers.InspectionAnswer)},
)
async def show(
    project_id: ProjectId,
    inspection_id: str,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:inspections:show")],
) -> Response:
    """Inspections live as long as the coordinator that ran them leads."""
    return Json({"inspection": translate.inspection(await backend.get_inspection(caller.project_id, inspection_id))})
