"""``/v1/{project_id}/migrations``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from coriolis.ids import new_id
from gateway import answers, translate
from gateway.auth import Backend, demand, permit
from gateway.delegation import new_trust, trust_for
from gateway.identity import Caller
from gateway.paging import read_page
from gateway.problems import Json
from gateway.routes.common import BODY_FAILURES, MigrationId, ProjectId, failures, success
from gateway.schemas import ActionBody, CreateMigrationBody, VerifyArguments

router = APIRouter(prefix="/v1/{project_id}/migrations", tags=["migrations"])

Limit = Annotated[str | None, Query(description="1 to 1000", examples=["100"])]
Marker = Annotated[str | None, Query(description="Id of the last migration of the page before")]
Status = Annotated[str | None, Query(description="Only migrations of this status", examples=["RUNNING"])]


@router.post(
    "",
    operation_id="create_migration",
    summary="Start a migration",
    response_class=Json,
    responses={**failures(*BODY_FAILURES, 405, 409), **success(answers.MigrationAnswer, "Accepted")},
)
async def create(
    request: Request,
    project_id: ProjectId,
    body: CreateMigrationBody,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:create")],
) -> Response:
    """Answers at once; follow it at its ``events``."""
    # an id of our own makes the creation repeatable while an election runs
    request_id = body.migration.request_id or new_id()
    asked = body.migration
    trust_id = await trust_for(request, caller, asked.origin.connection_info, asked.destination.connection_info)
    made = await backend.create_migration(translate.create_request(caller, asked, request_id, trust_id))
    return Json({"migration": translate.migration(made)})


async def _list(request: Request, backend: Backend, caller: Caller, *, with_tasks: bool) -> Response:
    page = read_page(request.query_params)
    if page.matches_nothing:
        return Json({"migrations": []})
    found, more = await backend.list_migrations(caller.project_id, page, with_tasks=with_tasks)
    document: translate.Document = {"migrations": [translate.migration(one, with_tasks=with_tasks) for one in found]}
    if more and found:
        url = f"{request.app.state.base_url}{request.url.path}"
        document["migrations_links"] = [{"rel": "next", "href": page.next_link(url, found[-1].id)}]
    return Json(document)


@router.get(
    "",
    operation_id="list_migrations",
    summary="List migrations, newest first",
    response_class=Json,
    responses={**failures(400), **success(answers.MigrationsAnswer)},
)
async def list_plain(
    request: Request,
    project_id: ProjectId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:list")],
    limit: Limit = None,
    marker: Marker = None,
    status: Status = None,
) -> Response:
    """``tasks`` and ``disks`` are empty here; ``/detail`` has them."""
    return await _list(request, backend, caller, with_tasks=False)


@router.get(
    "/detail",
    operation_id="list_migrations_in_detail",
    summary="List migrations with their tasks",
    response_class=Json,
    responses={**failures(400), **success(answers.MigrationsAnswer)},
)
async def list_detail(
    request: Request,
    project_id: ProjectId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:list")],
    limit: Limit = None,
    marker: Marker = None,
    status: Status = None,
) -> Response:
    """The plain list with ``tasks`` and ``disks``."""
    return await _list(request, backend, caller, with_tasks=True)


@router.get(
    "/{migration_id}",
    operation_id="show_migration",
    summary="Show a migration with its tasks",
    response_class=Json,
    responses={**failures(), **success(answers.MigrationAnswer)},
)
async def show(
    project_id: ProjectId,
    migration_id: MigrationId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:show")],
) -> Response:
    """All there is to know, progress included."""
    found = await backend.get_migration(caller.project_id, migration_id)
    return Json({"migration": translate.migration(found)})


@router.delete(
    "/{migration_id}",
    operation_id="delete_migration",
    summary="Forget a migration that has ended",
    status_code=204,
    response_class=Response,
    responses=failures(409),
)
async def delete(
    project_id: ProjectId,
    migration_id: MigrationId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:delete")],
) -> Response:
    """409 unless it is completed, failed or cancelled. The migrated machines stay."""
    await backend.delete_migration(caller.project_id, migration_id)
    return Response(status_code=204)


async def _cancel(backend: Backend, caller: Caller, migration_id: str, body: ActionBody) -> Response:
    force = body.cancel.force if body.cancel else False
    await backend.cancel_migration(caller.project_id, migration_id, force=force)
    return Response(status_code=204)


_ACTION_RESPONSES = {
    **failures(*BODY_FAILURES, 405, 409),
    **success(answers.VerificationAnswer, "The verification that was started"),
    204: {"description": "The migration is being cancelled, or has new credentials"},
}


@router.post(
    "/{migration_id}/action",
    operation_id="act_on_migration",
    summary="Cancel or verify a migration, or renew its credentials",
    response_class=Json,
    responses=_ACTION_RESPONSES,
)
@router.post(
    "/{migration_id}/actions",
    operation_id="act_on_migration_plural",
    summary="Cancel or verify a migration, or renew its credentials",
    response_class=Json,
    responses=_ACTION_RESPONSES,
)
async def act(
    request: Request,
    project_id: ProjectId,
    migration_id: MigrationId,
    body: ActionBody,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:show")],
) -> Response:
    """``{"cancel": null}``, ``{"cancel": {"force": true}}``, ``{"verify": null}``, ``{"verify": {"sample": "5%"}}``,
    ``{"renew_credentials": null}``: the migration goes on with what the token of this request may do.
    """
    if "cancel" in body.model_fields_set:
        demand(caller, "migration:migrations:cancel")
        return await _cancel(backend, caller, migration_id, body)
    if "renew_credentials" in body.model_fields_set:
        demand(caller, "migration:migrations:renew_credentials")
        # a foreign or absent one is refused before a trust is made
        await backend.get_migration(caller.project_id, migration_id)
        await backend.renew_credentials(caller.project_id, migration_id, await new_trust(request, caller))
        return Response(status_code=204)
    demand(caller, "migration:migrations:verify")
    if request.app.state.delegator is not None:
        # the trust of an ended migration is gone
        found = translate.migration(await backend.get_migration(caller.project_id, migration_id), with_tasks=False)
        sides = (found["origin"]["connection_info"], found["destination"]["connection_info"])
        if trust_id := await trust_for(request, caller, *sides):
            await backend.renew_credentials(caller.project_id, migration_id, trust_id)
    asked = body.verify or VerifyArguments()
    started = await backend.start_verification(caller.project_id, migration_id, asked.sample or "", asked.seed)
    return Json({"verification": translate.verification(started)})


@router.get(
    "/{migration_id}/verifications/{verification_id}",
    operation_id="show_verification",
    summary="Show what a verification found",
    response_class=Json,
    responses={**failures(), **success(answers.VerificationAnswer)},
)
async def show_verification(
    project_id: ProjectId,
    migration_id: MigrationId,
    verification_id: str,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:show_verification")],
) -> Response:
    """Verifications live as long as the coordinator that ran them leads."""
    found = await backend.get_verification(caller.project_id, migration_id, verification_id)
    return Json({"verification": translate.verification(found)})
