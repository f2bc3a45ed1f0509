"""Verifications: re-reading finished volumes against their manifests. Kept in the leader's memory, not in the store."""

from __future__ import annotations

from typing import Any

from coriolis.coordinator.driver import Driver
from coriolis.errors import Conflict, NotFound
from coriolis.ids import derived_id, new_id
from coriolis.model.job import ExecutionStatus, InstanceRun, Migration, run_status
from coriolis.model.task import Part, Role, Side, Task, TaskStatus, TaskType
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb

MAX_KEPT = 1000


class Verifications:
    """Starts them through the driver and reads their outcome from their runs."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._of: dict[str, str] = {}  # verification id -> migration id, oldest first

    def start(self, migration: Migration) -> pb.Verification:
        """Raises Conflict when no machine of the migration was finished."""
        finished = [run for run in self._driver.runs(migration.id) if run_status(run) is ExecutionStatus.COMPLETED]
        if not finished:
            raise Conflict("no machine of this migration is finished; there is nothing to verify")
        verification_id = new_id()
        runs = [_verification_run(verification_id, run, self._driver.now()) for run in finished]
        while len(self._of) >= MAX_KEPT:
            oldest = next(iter(self._of))
            del self._of[oldest]
            self._driver.forget(oldest)
        self._of[verification_id] = migration.id
        self._driver.submit_ephemeral(migration, runs)
        return self.get(migration.id, verification_id)

    def get(self, migration_id: str, verification_id: str) -> pb.Verification:
        """Raises NotFound; verifications do not outlive a leader."""
        if self._of.get(verification_id) != migration_id:
            raise NotFound(f'Verification with ID "{verification_id[:64]}" not found.')
        runs = self._driver.runs(verification_id)
        disks: list[pb.VerifiedDisk] = []
        for run in runs:
            found: list[dict[str, Any]] = run.results.get("verified", [])
            disks += [pb.VerifiedDisk(instance=run.instance, **disk) for disk in found]
        failed = [task.exception_details for run in runs for task in run.tasks if task.status is TaskStatus.ERROR]
        status = "RUNNING"
        if all(run.terminal for run in runs):
            status = "ERROR" if failed else "DIFFERS" if any(d.differing_bytes for d in disks) else "COMPLETED"
        return pb.Verification(
            id=verification_id, migration_id=migration_id, status=status, disks=disks, message="; ".join(failed)
        )


def _verification_run(verification_id: str, run: InstanceRun, now: str) -> InstanceRun:
    sink = next((p.agent_id for t in reversed(run.tasks) for p in t.parts if p.role is Role.SINK), "")
    # the agent that sealed the disks keeps their manifests: naming it as the last one makes placement prefer it
    parts = (Part(Role.SINGLE, sink, done=True),) if sink else ()
    task = Task(
        id=derived_id(verification_id, str(run.index)),
        task_type=TaskType.VERIFY_DISKS,
        index=1,
        side=Side.DESTINATION,
        parts=parts,
        created_at=now,
    )
    results = {**run.results, "verified": []}
    return InstanceRun(verification_id, run.project_id, run.instance, run.index, (task,), results)
