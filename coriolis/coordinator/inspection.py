"""Inspections: what a guest is and what conversion would do. Kept in the leader's memory, not in the store."""

from __future__ import annotations

import json
from typing import Any

from coriolis.convert.platforms import target_platform
from coriolis.coordinator.driver import Driver
from coriolis.coordinator.requests import Owner, Schemas, check_instances, check_schema, read_endpoint
from coriolis.coordinator.vault import Vault
from coriolis.errors import InvalidInput, NotFound
from coriolis.ids import derived_id, new_id
from coriolis.model.environment import COMMON_DESTINATION
from coriolis.model.job import DeploymentOptions, InstanceRun, Migration, Transfer
from coriolis.model.task import Side, Task, TaskStatus, TaskType
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb

MAX_KEPT = 1000
DEFAULT_PLATFORM = "kvm"


class Inspections:
    """Starts them through the driver and reads their outcome from their runs."""

    def __init__(self, driver: Driver, vault: Vault) -> None:
        self._driver = driver
        self._vault = vault
        self._of: dict[str, Migration] = {}  # oldest first

    async def start(self, request: pb.StartInspectionRequest, providers: Schemas) -> pb.Inspection:
        """Raises InvalidInput naming the wrong field, NotFound for a secret that is not the project's."""
        inspection_id = new_id()
        (instance,) = check_instances([request.instance])
        platform = target_platform(request.target_platform or DEFAULT_PLATFORM)
        conversion = _conversion(request.conversion_json)
        sealed_trust = ""
        if request.trust_id:
            sealed_trust = await self._vault.seal_trust(request.project_id, inspection_id, request.trust_id)
        owner = Owner(request.project_id, inspection_id, request.trust_id)
        origin, _ = await read_endpoint("origin", request.origin, owner, providers, self._vault)
        migration = Migration(
            id=inspection_id,
            project_id=request.project_id,
            user_id=request.user_id,
            execution_id=inspection_id,
            transfer=Transfer(origin, origin, (instance,)),
            deployment=DeploymentOptions(shutdown_instances=False),
            replication_count=1,
            created_at=self._driver.now(),
            sealed_trust=sealed_trust,
        )
        while len(self._of) >= MAX_KEPT:
            oldest = next(iter(self._of))
            del self._of[oldest]
            self._driver.forget(oldest)
        self._of[inspection_id] = migration
        asked = {
            "target_platform": platform.name,
            "conversion": conversion,
        }
        self._driver.submit_ephemeral(migration, [_run(migration, asked)])
        return self.get(request.project_id, inspection_id)

    def get(self, project_id: str, inspection_id: str) -> pb.Inspection:
        """Raises NotFound; inspections do not outlive a leader."""
        migration = self._of.get(inspection_id)
        if migration is None or migration.project_id != project_id:
            raise NotFound(f'Inspection with ID "{inspection_id[:64]}" not found.')
        (run,) = self._driver.runs(inspection_id)
        failed = [task.exception_details for task in run.tasks if task.status is TaskStatus.ERROR]
        found: dict[str, Any] = run.results.get("inspection", {})
        status = "RUNNING"
        if run.terminal:
            status = "COMPLETED" if found and not failed else "ERROR"
        return pb.Inspection(
            id=inspection_id,
            instance=run.instance,
            status=status,
            created_at=migration.created_at,
            target_platform=run.results["inspection_request"]["target_platform"],
            message="; ".join(failed),
            found_json=json.dumps(found) if found else "",
            events=[event.message for task in run.tasks for event in task.events],
        )


def _conversion(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text or "{}")
    except ValueError as broken:
        raise InvalidInput("conversion is not JSON") from broken
    check_schema("conversion", document, COMMON_DESTINATION["conversion"])
    checked: dict[str, Any] = document
    return checked


def _run(migration: Migration, asked: dict[str, Any]) -> InstanceRun:
    """Describe the machine, look into it, and leave nothing behind whatever became of that."""

    def task(index: int, task_type: TaskType, after: tuple[str, ...], *, on_error: bool = False) -> Task:
        return Task(
            id=derived_id(migration.id, task_type),
            task_type=task_type,
            index=index,
            side=Side.ORIGIN,
            depends_on=after,
            on_error=on_error,
            pass_number=1,
            created_at=migration.created_at,
        )

    described = task(1, TaskType.GET_INSTANCE_INFO, ())
    inspected = task(2, TaskType.INSPECT_GUEST, (described.id,))
    cleaned = task(3, TaskType.DELETE_TRANSFER_SOURCE_RESOURCES, (described.id, inspected.id), on_error=True)
    tasks = (described, inspected, cleaned)
    results = {"inspection_request": asked}
    return InstanceRun(migration.id, migration.project_id, migration.transfer.instances[0], 0, tasks, results)
