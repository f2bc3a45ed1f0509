"""``/v1/{project_id}/surveys``: networks, security groups and storage of one end of a migration."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response

from gateway import survey_answers as answers
from gateway import survey_translation as translate
from gateway.auth import Backend, permit
from gateway.delegation import trust_for
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import BODY_FAILURES, ProjectId, failures, success
from gateway.schemas import CreateSurveyBody

router = APIRouter(prefix="/v1/{project_id}/surveys", tags=["surveys"])


@router.post(
    "",
    operation_id="create_survey",
    summary="Describe networks and storage of an origin or a destination",
    response_class=Json,
    responses={**failures(*BODY_FAILURES), **success(answers.SurveyAnswer, "The survey that was started")},
)
async def create(
    request: Request,
    project_id: ProjectId,
    body: CreateSurveyBody,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:surveys:create")],
) -> Response:
    """Answers at once; ask for it by its id. Nothing is changed at the cloud."""
    end = body.survey.origin or body.survey.destination
    assert end is not None, "the schema has seen to it"
    trust_id = await trust_for(request, caller, end.connection_info)
    started = await backend.start_survey(translate.request_message(caller, body.survey, trust_id))
    return Json({"survey": translate.document(started)})


@router.get(
    "/{survey_id}",
    operation_id="show_survey",
    summary="Show what a survey found",
    response_class=Json,
    responses={**failures(), **success(answers.SurveyAnswer)},
)
async def show(
    project_id: ProjectId,
    survey_id: str,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:surveys:show")],
) -> Response:
    """Surveys live as long as the coordinator that ran them leads."""
    return Json({"survey": translate.document(await backend.get_survey(caller.project_id, survey_id))})
