"""From what a job asks to the tasks of each machine: pure, no I/O.

``plan_transfer`` and ``plan_deployment`` are the two halves that lasting replication will use on their own;
``plan_migration`` joins them into one graph, so that a machine never waits for its neighbours.
"""

from __future__ import annotations

import msgspec

from coriolis.ids import derived_id
from coriolis.model.job import InstanceRun, Migration
from coriolis.model.task import Side, Task, TaskStatus, TaskType


class _Graph:
    """Collects tasks of one machine; ids derive from the execution, the machine and the step."""

    def __init__(self, execution_id: str, instance_index: int, created_at: str) -> None:
        self._scope = (execution_id, str(instance_index))
        self._created_at = created_at
        self.tasks: list[Task] = []

    def add(
        self,
        task_type: TaskType,
        side: Side,
        after: tuple[str, ...] = (),
        *,
        on_error: bool = False,
        only_on_error: bool = False,
        pass_number: int = 0,
        last_pass: bool = False,
    ) -> str:
        task_id = derived_id(*self._scope, task_type, str(pass_number))
        status = TaskStatus.EXECUTE_ON_ERROR_ONLY if only_on_error else TaskStatus.SCHEDULED
        self.tasks.append(
            Task(
                id=task_id,
                task_type=task_type,
                index=len(self.tasks) + 1,
                side=side,
                depends_on=after,
                on_error=on_error or only_on_error,
                status=status,
                pass_number=pass_number,
                last_pass=last_pass,
                created_at=self._created_at,
            )
        )
        return task_id


class TransferHandles(msgspec.Struct, frozen=True):
    """Tasks of a transfer that later ones depend on."""

    validated: str
    disks: str
    source: str
    last_pass: str
    shuts_down: bool


def plan_transfer(graph: _Graph, passes: int, *, shut_down: bool) -> TransferHandles:
    """Validation, volumes, ``passes`` sync passes (origin stopped before the last one if asked), origin clean-up."""
    source_checked = graph.add(TaskType.VALIDATE_TRANSFER_SOURCE_INPUTS, Side.ORIGIN)
    info = graph.add(TaskType.GET_INSTANCE_INFO, Side.ORIGIN)
    validated = graph.add(TaskType.VALIDATE_TRANSFER_DESTINATION_INPUTS, Side.DESTINATION, (info,))
    disks = graph.add(TaskType.DEPLOY_TRANSFER_DISKS, Side.DESTINATION, (source_checked, validated))
    source = graph.add(TaskType.DEPLOY_TRANSFER_SOURCE_RESOURCES, Side.ORIGIN, (disks,))
    previous = source
    for number in range(1, passes + 1):
        last = number == passes
        if last and shut_down:
            previous = graph.add(TaskType.SHUTDOWN_INSTANCE, Side.ORIGIN, (previous,))
        previous = graph.add(TaskType.REPLICATE_DISKS, Side.BOTH, (previous,), pass_number=number, last_pass=last)
    graph.add(TaskType.DELETE_TRANSFER_SOURCE_RESOURCES, Side.ORIGIN, (source, previous), on_error=True)
    return TransferHandles(validated, disks, source, previous, shut_down)


def plan_deployment(graph: _Graph, transfer: TransferHandles, *, morph: bool, prove: bool = False) -> None:
    """Conversion, cutover, and what undoes them after a failure."""
    ready = transfer.last_pass
    if morph:
        ready = graph.add(TaskType.OS_MORPHING, Side.DESTINATION, (ready,))
    if prove:
        ready = graph.add(TaskType.PROVE_BOOT, Side.DESTINATION, (ready,))
    final = graph.add(TaskType.FINALIZE_INSTANCE_DEPLOYMENT, Side.DESTINATION, (ready,))
    undone = graph.add(
        TaskType.CLEANUP_FAILED_INSTANCE_DEPLOYMENT,
        Side.DESTINATION,
        (transfer.last_pass, final),
        only_on_error=True,
    )
    graph.add(
        TaskType.DELETE_TRANSFER_DISKS,
        Side.DESTINATION,
        # the validation, not the creation, is the set-up that counts: a creation that failed half-way leaves volumes
        (transfer.validated, transfer.disks, transfer.last_pass, final, undone),
        only_on_error=True,
    )
    if transfer.shuts_down:
        # only when the destination's machine is known to be gone may the origin's run again
        graph.add(
            TaskType.RESTORE_ORIGIN_POWER,
            Side.ORIGIN,
            (transfer.source, transfer.last_pass, final, undone),
            only_on_error=True,
        )


def plan_migration(migration: Migration) -> list[InstanceRun]:
    """One run per instance, all tasks waiting."""
    runs = []
    for index, instance in enumerate(migration.transfer.instances):
        options = migration.deployment
        graph = _Graph(migration.execution_id, index, migration.created_at)
        handles = plan_transfer(graph, migration.replication_count, shut_down=migration.deployment.shutdown_instances)
        plan_deployment(graph, handles, morph=not options.skip_os_morphing, prove=options.proof_of_boot)
        runs.append(InstanceRun(migration.id, migration.project_id, instance, index, tuple(graph.tasks)))
    return runs
