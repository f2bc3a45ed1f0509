"""Verifications: re-reading finished volumes against their manifests. Kept in the leader's memory, not in the store."""

from __future__ import annotations

import secrets
from typing import Any

from coriolis.coordinator.driver import Driver
from coriolis.errors import Conflict, InvalidInput, NotFound
from coriolis.ids import derived_id, new_id
from coriolis.model.job import ExecutionStatus, InstanceRun, Migration, run_status
from coriolis.model.task import Part, Role, Side, Task, TaskStatus, TaskType
from coriolis.rpc.gen.coriolis.v1 import job_pb2 as pb
from coriolis.transfer.sample import MAX_SEED, parse_sample

MAX_KEPT = 1000


class Verifications:
    """Starts them through the driver and reads their outcome from their runs."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._of: dict[str, tuple[str, str, int]] = {}  # id -> (migration id, sample, seed), oldest first

    def start(self, migration: Migration, sample: str = "", seed: int | None = None) -> pb.Verification:
        """``sample`` empty: every cell. Raises InvalidInput, Conflict when no machine of the migration was finished."""
        seed = _checked_seed(sample, seed)
        finished = [run for run in self._driver.runs(migration.id) if run_status(run) is ExecutionStatus.COMPLETED]
        if not finished:
            raise Conflict("no machine of this migration is finished; there is nothing to verify")
        verification_id = new_id()
        runs = [_verification_run(verification_id, run, self._driver.now(), sample, seed) for run in finished]
        while len(self._of) >= MAX_KEPT:
            oldest = next(iter(self._of))
            del self._of[oldest]
            self._driver.forget(oldest)
        self._of[verification_id] = migration.id, sample, seed
        self._driver.submit_ephemeral(migration, runs)
        return self.get(migration.id, verification_id)

    def get(self, migration_id: str, verification_id: str) -> pb.Verification:
        """Raises NotFound; verifications do not outlive a leader."""
        found_id, sample, seed = self._of.get(verification_id, ("", "", 0))
        if found_id != migration_id:
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
            id=verification_id,
            migration_id=migration_id,
            status=status,
            disks=disks,
            message="; ".join(failed),
            sample=sample,
            seed=seed,
        )


def _checked_seed(sample: str, seed: int | None) -> int:
    """The seed to use: 0 without a sample, else the given one or a random one. Raises InvalidInput."""
    if not sample:
        if seed is not None:
            raise InvalidInput("a seed chooses the cells of a sample; give a sample too, or neither")
        return 0
    parse_sample(sample)
    if seed is None:
        return secrets.randbelow(MAX_SEED + 1)
    if seed > MAX_SEED:
        raise InvalidInput(f"seed {seed} is above {MAX_SEED}")
    return seed


def _verification_run(verification_id: str, run: InstanceRun, now: str, sample: str, seed: int) -> InstanceRun:
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
    results = {**run.results, "verified": [], "verification": {"sample": sample, "seed": seed}}
    return InstanceRun(verification_id, run.project_id, run.instance, run.index, (task,), results)
