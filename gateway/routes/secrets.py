"""``/v1/{project_id}/secrets``: connection infos by reference. A payload goes in and never comes out."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Path, Response

from coriolis.errors import InvalidInput
from gateway import answers, translate
from gateway.auth import Backend, permit
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import BODY_FAILURES, ProjectId, failures, success
from gateway.schemas import CreateSecretBody

router = APIRouter(prefix="/v1/{project_id}/secrets", tags=["secrets"])

MAX_PAYLOAD_BYTES = 64 * 1024


@router.post(
    "",
    operation_id="create_secret",
    summary="Store a secret",
    response_class=Json,
    responses={**failures(*BODY_FAILURES, 409), **success(answers.SecretAnswer)},
)
async def create(
    project_id: ProjectId,
    body: CreateSecretBody,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:secrets:create")],
) -> Response:
    """The answer's id may stand for a connection_info as ``{"secret_id": id}``."""
    payload = json.dumps(body.secret.payload)
    if len(payload.encode()) > MAX_PAYLOAD_BYTES:
        raise InvalidInput(f"secret.payload: larger than {MAX_PAYLOAD_BYTES} bytes")
    return Json({"secret": translate.secret(await backend.put_secret(caller.project_id, body.secret.name, payload))})


@router.get(
    "",
    operation_id="list_secrets",
    summary="List secrets without their payloads",
    response_class=Json,
    responses={**failures(), **success(answers.SecretsAnswer)},
)
async def list_secrets(
    project_id: ProjectId, backend: Backend, caller: Annotated[Caller, permit("migration:secrets:list")]
) -> Response:
    """Names and ids."""
    found = await backend.list_secrets(caller.project_id)
    return Json({"secrets": [translate.secret(one) for one in found]})


@router.delete(
    "/{secret_id}",
    operation_id="delete_secret",
    summary="Delete a secret",
    status_code=204,
    response_class=Response,
    responses=failures(409),
)
async def delete(
    project_id: ProjectId,
    secret_id: Annotated[str, Path(description="Id of a secret")],
    backend: Backend,
    caller: Annotated[Caller, permit("migration:secrets:delete")],
) -> Response:
    """Migrations that still need it will end in ERROR."""
    await backend.delete_secret(caller.project_id, secret_id)
    return Response(status_code=204)
