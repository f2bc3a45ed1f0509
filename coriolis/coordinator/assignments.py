"""Assignments on the wire: their ids and what an agent is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from coriolis.coordinator.events import AssignPart
from coriolis.coordinator.placement import side_of
from coriolis.errors import InvalidInput
from coriolis.model.job import InstanceRun, Migration
from coriolis.model.task import Road, Role, Side, Task, TaskType
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb


def assignment_id(task_id: str, role: Role, generation: int) -> str:
    """Unique per task, role and attempt."""
    return f"{task_id}:{role.value}:{generation}"


def parse_assignment_id(text: str) -> tuple[str, Role, int]:
    """The inverse of ``assignment_id``. Raises InvalidInput."""
    try:
        task_id, role, generation = text.split(":")
        return task_id, Role(role), int(generation)
    except ValueError as broken:
        raise InvalidInput(f"assignment id {text[:80]!r} is malformed") from broken


def task_input(migration: Migration, run: InstanceRun, task: Task, role: Role) -> dict[str, Any]:
    """The inputs of a task: no secrets, everything else it may need. See ``coriolis.agent.assignment``."""
    side = side_of(task, role)
    endpoint = migration.transfer.origin if side is Side.ORIGIN else migration.transfer.destination
    scripts = migration.transfer.user_scripts if task.task_type is TaskType.OS_MORPHING else {}
    return {
        "environment": endpoint.environment,
        "network_map": migration.transfer.network_map,
        "results": run.results,
        "ledger": msgspec.to_builtins(run.ledger),
        "committed_instance": run.committed_instance,
        "pass_number": task.pass_number,
        "last_pass": task.last_pass,
        "passes": migration.replication_count,
        "attempt": task.generation,
        "skip_os_morphing": migration.deployment.skip_os_morphing,
        "user_scripts": scripts,
    }


def assign_message(
    migration: Migration,
    run: InstanceRun,
    command: AssignPart,
    epoch: int,
    identity_of: Callable[[str], str],
    rates: dict[str, Any] | None = None,
    relay_key: bytes = b"",
) -> pb.Assign:
    """What ``command`` tells the agent. ``identity_of`` gives the certificate identity of a connected agent.

    ``rates``: what a source may send at first, ``{"unlimited": bool, "disks": {disk id: bytes per second}}``.
    """
    task = run.task(command.task_id)
    side = side_of(task, command.role)
    endpoint = migration.transfer.origin if side is Side.ORIGIN else migration.transfer.destination
    sink, source = task.part(Role.SINK), task.part(Role.SOURCE)
    return pb.Assign(
        assignment_id=assignment_id(task.id, command.role, command.generation),
        project_id=run.project_id,
        # not the run's: resources are named and tagged for the migration that an ephemeral run works for
        migration_id=migration.id,
        task_id=task.id,
        task_type=task.task_type,
        instance=run.instance,
        instance_index=run.index,
        role=command.role.value,
        generation=command.generation,
        epoch=epoch,
        provider=endpoint.type,
        input_json=json.dumps(
            {**task_input(migration, run, task, command.role), **({"rates": rates} if rates else {})}
        ),
        peer_address=sink.address if sink and command.role is Role.SOURCE else "",
        peer_identity=identity_of(sink.agent_id) if sink and command.role is Role.SOURCE else "",
        allowed_identity=identity_of(source.agent_id) if source and command.role is Role.SINK else "",
        road=road_message(task.road, relay_key) if task.road else None,
    )


def road_message(road: Road, relay_key: bytes) -> pb.Road:
    """What both sides are told; ``relay_key`` only where they meet."""
    return pb.Road(path=road.path, relay_address=road.address, relay_key=relay_key if road.meeting else b"")
