"""Surveys: what one end of a migration has. Kept in the leader's memory, not in the store."""

from __future__ import annotations

import json
from typing import Any

from coriolis.coordinator.driver import Driver
from coriolis.coordinator.requests import Owner, Schemas, check_instances, read_endpoint, uses_trust
from coriolis.coordinator.vault import Vault
from coriolis.errors import InvalidInput, NotFound
from coriolis.ids import derived_id, new_id
from coriolis.model.job import DeploymentOptions, InstanceRun, Migration, Transfer
from coriolis.model.task import Side, Task, TaskStatus, TaskType
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb

MAX_KEPT = 200
MAX_MACHINES_BYTES = 2 << 20
"""Of descriptions in one answer, which has to fit into one message (4 MiB)."""


class Surveys:
    """Starts them through the driver and reads their outcome from their runs: the first is of the cloud, one more is
    of each machine, so that a wrong name fails alone."""

    def __init__(self, driver: Driver, vault: Vault) -> None:
        self._driver = driver
        self._vault = vault
        self._of: dict[str, Migration] = {}  # oldest first

    async def start(self, request: pb.StartSurveyRequest, providers: Schemas) -> pb.Survey:
        """Raises InvalidInput naming the wrong field, NotFound for a secret that is not the project's."""
        survey_id = new_id()
        if request.HasField("origin") == request.HasField("destination"):
            raise InvalidInput("a survey is of an origin or of a destination: give exactly one of both")
        side = Side.ORIGIN if request.HasField("origin") else Side.DESTINATION
        instances = check_instances(list(request.instances)) if request.instances else ()
        if instances and side is Side.DESTINATION:
            raise InvalidInput("instances are machines of an origin; a destination has none to describe")
        sealed_trust = ""
        if request.trust_id:
            sealed_trust = await self._vault.seal_trust(request.project_id, survey_id, request.trust_id)
        owner = Owner(request.project_id, survey_id, request.trust_id)
        asked = request.origin if side is Side.ORIGIN else request.destination
        endpoint, _ = await read_endpoint(side.value, asked, owner, providers, self._vault)
        migration = Migration(
            id=survey_id,
            project_id=request.project_id,
            user_id=request.user_id,
            execution_id=survey_id,
            transfer=Transfer(endpoint, endpoint, instances or ("",)),
            deployment=DeploymentOptions(shutdown_instances=False),
            replication_count=1,
            created_at=self._driver.now(),
            sealed_trust=sealed_trust if uses_trust(endpoint) else "",
        )
        while len(self._of) >= MAX_KEPT:
            oldest = next(iter(self._of))
            del self._of[oldest]
            self._driver.forget(oldest)
        self._of[survey_id] = migration
        runs = [_run(migration, 0, "", TaskType.SURVEY_ENDPOINT, side)]
        for number, instance in enumerate(instances, 1):
            runs.append(_run(migration, number, instance, TaskType.GET_INSTANCE_INFO, side))
        self._driver.submit_ephemeral(migration, runs)
        return self.get(request.project_id, survey_id)

    def get(self, project_id: str, survey_id: str) -> pb.Survey:
        """Raises NotFound; surveys do not outlive a leader."""
        migration = self._of.get(survey_id)
        if migration is None or migration.project_id != project_id:
            raise NotFound(f'Survey with ID "{survey_id[:64]}" not found.')
        cloud, *machines = self._driver.runs(survey_id)
        found: dict[str, Any] = cloud.results.get("survey", {})
        status = "RUNNING"
        if all(run.terminal for run in (cloud, *machines)):
            status = "COMPLETED" if found else "ERROR"
        return pb.Survey(
            id=survey_id,
            side=cloud.results["survey_request"]["side"],
            type=migration.transfer.origin.type,
            status=status,
            created_at=migration.created_at,
            message=_failure(cloud),
            found_json=json.dumps(found) if found else "",
            machines=_machines(machines),
            events=[event.message for task in cloud.tasks for event in task.events],
        )


def _machines(runs: list[InstanceRun]) -> list[pb.SurveyedMachine]:
    described, left = [], MAX_MACHINES_BYTES
    for run in runs:
        info = run.results.get("export_info")
        text, message = json.dumps(info) if info else "", _failure(run)
        left -= len(text)
        if left < 0:
            text, message = "", "the machines' descriptions are too large for one answer: ask for fewer at once"
        described.append(pb.SurveyedMachine(instance=run.instance, export_info_json=text, message=message))
    return described


def _failure(run: InstanceRun) -> str:
    return "; ".join(task.exception_details for task in run.tasks if task.status is TaskStatus.ERROR)


def _run(migration: Migration, number: int, instance: str, task_type: TaskType, side: Side) -> InstanceRun:
    task = Task(
        id=derived_id(migration.id, str(number)),
        task_type=task_type,
        index=1,
        side=side,
        pass_number=1,
        created_at=migration.created_at,
    )
    results = {"survey_request": {"side": side.value}}
    return InstanceRun(migration.id, migration.project_id, instance, number, (task,), results)
