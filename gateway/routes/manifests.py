"""``/v1/{project_id}/migrations/{migration_id}/manifests``: what both agents signed of each sealed disk."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from gateway import answers, translate
from gateway.auth import Backend, permit
from gateway.identity import Caller
from gateway.problems import Json
from gateway.routes.common import MigrationId, ProjectId, failures, success

router = APIRouter(prefix="/v1/{project_id}/migrations/{migration_id}/manifests", tags=["manifests"])

DiskId = Annotated[str, Path(description="Id of a disk as in the list", examples=["disk-0"])]
Instance = Annotated[str | None, Query(description="Needed when several machines have a disk of this id")]


@router.get(
    "",
    operation_id="list_manifests",
    summary="List the manifests of sealed disks",
    response_class=Json,
    responses={**failures(), **success(answers.ManifestsAnswer)},
)
async def list_all(
    project_id: ProjectId,
    migration_id: MigrationId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:manifests:list")],
) -> Response:
    """Of the last sealed pass of each disk; no agent has to be there."""
    found = await backend.list_manifests(caller.project_id, migration_id)
    return Json({"manifests": [translate.manifest(one) for one in found]})


@router.get(
    "/{disk_id:path}",
    operation_id="show_manifest",
    summary="Show the signed manifest of a disk",
    response_class=Json,
    responses={**failures(409), **success(answers.ManifestAnswer)},
)
async def show(
    project_id: ProjectId,
    migration_id: MigrationId,
    disk_id: DiskId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:manifests:show")],
    instance: Instance = None,
) -> Response:
    """With statements, signatures and certificates: enough to check it with the mesh's CA alone."""
    found = await backend.get_manifest(caller.project_id, migration_id, disk_id, instance or "")
    return Json({"manifest": translate.manifest_detail(found)})
