"""From records to wire messages: what callers see of a migration."""

from __future__ import annotations

import json

from coriolis.coordinator.progress import ProgressBoard
from coriolis.ids import derived_id
from coriolis.model.job import (
    Endpoint,
    ExecutionStatus,
    InstanceRun,
    Migration,
    combined_status,
    run_status,
    waits_for_credentials,
)
from coriolis.model.task import Task, TaskStatus
from coriolis.rpc.gen.coriolis.v1 import endpoint_pb2, job_pb2, types_pb2

MIB = 1 << 20


def endpoint_message(endpoint: Endpoint) -> endpoint_pb2.Endpoint:
    """Secrets masked."""
    return endpoint_pb2.Endpoint(
        type=endpoint.type,
        connection_info_json=json.dumps(endpoint.shown_connection),
        environment_json=json.dumps(endpoint.environment),
    )


def task_message(run: InstanceRun, task: Task, disks: list[types_pb2.DiskProgress]) -> types_pb2.Task:
    """One task with its events and, for a replication, one progress update per disk."""
    events = [
        types_pb2.TaskEvent(
            id=event.id, level=event.level, message=event.message, created_at=event.created_at, index=index
        )
        for index, event in enumerate(task.events)
    ]
    return types_pb2.Task(
        id=task.id,
        instance=run.instance,
        task_type=task.task_type,
        status=task.status,
        index=task.index,
        depends_on=task.depends_on,
        on_error=task.on_error,
        host=",".join(dict.fromkeys(part.agent_id for part in task.parts)),
        process_id=next((part.process_id for part in task.parts if part.process_id), 0),
        exception_details=task.exception_details,
        events=events,
        progress_updates=_progress_updates(run, task, disks),
        created_at=task.created_at,
        updated_at=task.updated_at,
    )


def _progress_updates(
    run: InstanceRun, task: Task, disks: list[types_pb2.DiskProgress]
) -> list[types_pb2.ProgressUpdate]:
    mine = sorted((disk for disk in disks if disk.task_id == task.id), key=lambda disk: disk.disk_id)
    return [
        types_pb2.ProgressUpdate(
            id=derived_id(task.id, disk.disk_id),
            index=index,
            current_step=-(-disk.done_bytes // MIB) if disk.sealed else disk.done_bytes // MIB,
            total_steps=max(1, -(-disk.total_bytes // MIB)),
            message=f"Disk {disk.disk_id}",
            created_at=task.updated_at or task.created_at,
        )
        for index, disk in enumerate(mine)
    ]


def all_disks(runs: list[InstanceRun], live: list[types_pb2.DiskProgress]) -> list[types_pb2.DiskProgress]:
    """Live progress, and for passes that ended before this leader's time what their tasks left as results."""
    known = {disk.task_id for disk in live}
    ended = [
        types_pb2.DiskProgress(
            task_id=task.id,
            instance=run.instance,
            disk_id=disk_id,
            pass_number=task.pass_number,
            done_bytes=numbers["total_bytes"],
            durable_bytes=numbers["total_bytes"],
            written_bytes=numbers["sent_bytes"],
            sealed=True,
            **numbers,
        )
        for run in runs
        for task in run.tasks
        if task.status is TaskStatus.COMPLETED and task.id not in known
        for disk_id, numbers in run.results.get("progress", {}).get(str(task.pass_number), {}).items()
    ]
    return [*ended, *live]


def migration_message(
    migration: Migration, runs: list[InstanceRun], board: ProgressBoard, *, with_tasks: bool
) -> job_pb2.Migration:
    """A migration as ``GetMigration`` and ``ListMigrations`` answer it."""
    status = combined_status([run_status(run) for run in runs])
    disks = all_disks(runs, board.disks(migration.id)) if with_tasks else []
    tasks = []
    if with_tasks:
        tasks = [
            task_message(run, task, disks)
            for run in runs
            for task in run.tasks
            if task.status is not TaskStatus.EXECUTE_ON_ERROR_ONLY
        ]
    transfer_result = {
        run.instance: run.results["transfer_result"]
        for run in runs
        if run_status(run) is ExecutionStatus.COMPLETED and "transfer_result" in run.results
    }
    return job_pb2.Migration(
        id=migration.id,
        project_id=migration.project_id,
        user_id=migration.user_id,
        status=status,
        origin=endpoint_message(migration.transfer.origin),
        destination=_destination_message(migration),
        instances=migration.transfer.instances,
        tasks=tasks,
        disks=disks,
        created_at=migration.created_at,
        updated_at=max((run.updated_at for run in runs), default=""),
        execution_id=migration.execution_id,
        transfer_result_json=json.dumps(transfer_result) if transfer_result else "",
        notes=migration.transfer.notes,
        replication_count=migration.replication_count,
        shutdown_instances=migration.deployment.shutdown_instances,
        skip_os_morphing=migration.deployment.skip_os_morphing,
        user_scripts_json=json.dumps(migration.transfer.user_scripts) if migration.transfer.user_scripts else "",
        waiting_for="credentials" if any(waits_for_credentials(task) for run in runs for task in run.tasks) else "",
        residue=[f"{entry.side} {entry.kind} {entry.name}" for run in runs for entry in run.residue()],
    )


def _destination_message(migration: Migration) -> endpoint_pb2.Endpoint:
    message = endpoint_message(migration.transfer.destination)
    environment = {**migration.transfer.destination.environment, "network_map": migration.transfer.network_map}
    message.environment_json = json.dumps(environment)
    return message
