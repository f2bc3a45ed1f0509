"""Between the wire of the mesh and the documents of the REST API."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from coriolis.rpc.gen.coriolis.v1 import cluster_pb2, endpoint_pb2, job_pb2, types_pb2
from gateway.identity import Caller
from gateway.schemas import InspectionIn, MigrationIn

Document = dict[str, Any]

CELL_BYTES = 1 << 20
"""The unit of manifests, fixed by the transfer protocol."""

EPOCH = "1970-01-01T00:00:00.000000"
"""Services are not stored, so they have no creation time; clients sort by it and need a string."""
TRANSFER_IMPORT, TRANSFER_EXPORT, ENDPOINT, OS_MORPHING = 4, 8, 16, 64


def create_request(
    caller: Caller, body: MigrationIn, request_id: str, trust_id: str = ""
) -> job_pb2.CreateMigrationRequest:
    """The creation that ``body`` asks for, in the caller's project."""
    request = job_pb2.CreateMigrationRequest(
        project_id=caller.project_id,
        user_id=caller.user_id,
        request_id=request_id,
        origin=endpoint_message(body.origin.type, body.origin.connection_info, body.origin.source_environment),
        destination=endpoint_message(
            body.destination.type, body.destination.connection_info, body.destination.target_environment
        ),
        instances=body.instances,
        replication_count=body.replication_count or 0,
        skip_os_morphing=body.skip_os_morphing or False,
        notes=body.notes or "",
        user_scripts_json=json.dumps(body.user_scripts) if body.user_scripts else "",
        trust_id=trust_id,
    )
    if body.shutdown_instances is not None:
        request.shutdown_instances = body.shutdown_instances
    return request


def endpoint_message(
    type_: str, connection_info: Document | None, environment: Document | None
) -> endpoint_pb2.Endpoint:
    """One end of a migration as the mesh takes it."""
    return endpoint_pb2.Endpoint(
        type=type_,
        connection_info_json=json.dumps(connection_info or {}),
        environment_json=json.dumps(environment or {}),
    )


def migration(message: job_pb2.Migration, *, with_tasks: bool = True) -> Document:
    """Every member that any client of this API reads, nulls included."""
    source_environment = json_object(message.origin.environment_json)
    target_environment = json_object(message.destination.environment_json)
    return {
        "id": message.id,
        "base_id": message.id,
        "type": "migration",
        "status": message.status,
        "last_execution_status": message.status,
        "execution_id": message.execution_id,
        "user_id": message.user_id,
        "project_id": message.project_id,
        "instances": list(message.instances),
        "origin": {
            "type": message.origin.type,
            "connection_info": json_object(message.origin.connection_info_json),
            "source_environment": source_environment,
        },
        "destination": {
            "type": message.destination.type,
            "connection_info": json_object(message.destination.connection_info_json),
            "target_environment": target_environment,
        },
        "source_environment": source_environment,
        "destination_environment": target_environment,
        "network_map": target_environment.get("network_map") or {},
        "storage_mappings": {},
        "user_scripts": json_object(message.user_scripts_json),
        "notes": message.notes or None,
        "replication_count": message.replication_count,
        "shutdown_instances": message.shutdown_instances,
        "skip_os_morphing": message.skip_os_morphing,
        "clustered": len(message.instances) > 1,
        "replica_id": None,
        "reservation_id": None,
        "origin_endpoint_id": None,
        "destination_endpoint_id": None,
        "origin_minion_pool_id": None,
        "destination_minion_pool_id": None,
        "instance_osmorphing_minion_pool_mappings": {},
        "info": {},
        "transfer_result": json_object(message.transfer_result_json) if message.transfer_result_json else None,
        "tasks": [task(one, message.execution_id) for one in message.tasks] if with_tasks else [],
        "disks": [disk(one) for one in message.disks] if with_tasks else [],
        "progress": job_progress(message.disks) if with_tasks and message.disks else None,
        "residue": list(message.residue),
        "waiting_for": message.waiting_for or None,
        **_row(message.created_at, message.updated_at),
    }


def task(message: types_pb2.Task, execution_id: str) -> Document:
    """A task with its events and progress updates."""
    return {
        "id": message.id,
        "execution_id": execution_id,
        "instance": message.instance,
        "task_type": message.task_type,
        "status": message.status,
        "index": message.index,
        "depends_on": list(message.depends_on) or None,
        "on_error": message.on_error,
        "host": message.host or None,
        "process_id": message.process_id or None,
        "exception_details": message.exception_details or None,
        "events": [_event(event, message.id) for event in message.events],
        "progress_updates": [_progress_update(update, message.id) for update in message.progress_updates],
        **_row(message.created_at, message.updated_at),
    }


def _event(message: types_pb2.TaskEvent, task_id: str) -> Document:
    return {
        "id": message.id,
        "task_id": task_id,
        "level": message.level,
        "index": message.index,
        "message": message.message,
        **_row(message.created_at),
    }


def _progress_update(message: types_pb2.ProgressUpdate, task_id: str) -> Document:
    return {
        "id": message.id,
        "task_id": task_id,
        "index": message.index,
        "current_step": message.current_step,
        "total_steps": message.total_steps,
        "message": message.message,
        **_row(message.created_at),
    }


SUMMED = (
    "total_bytes",
    "done_bytes",
    "read_bytes",
    "sent_bytes",
    "written_bytes",
    "zero_bytes",
    "resent_bytes",
    "lag_bytes",
)


def disk(message: types_pb2.DiskProgress) -> Document:
    """Progress of a disk; ``eta_s`` is null while it is unknown."""
    return {
        "task_id": message.task_id,
        "instance": message.instance,
        "disk_id": message.disk_id,
        "pass_number": message.pass_number,
        "total_bytes": message.total_bytes,
        "done_bytes": message.done_bytes,
        "read_bytes": message.read_bytes,
        "sent_bytes": message.sent_bytes,
        "written_bytes": message.written_bytes,
        "zero_bytes": message.zero_bytes,
        "durable_bytes": message.durable_bytes,
        "resent_bytes": message.resent_bytes,
        "lag_bytes": message.lag_bytes,
        "rate_bytes_per_s": message.rate_bytes_per_s,
        "eta_s": message.eta_s if message.eta_s >= 0 else None,
        "compression_ratio": _ratio(message.unpacked_bytes, message.packed_bytes),
        "compression_level": message.compression_level,
        "transport": message.transport,
        "lanes": message.lanes,
        "rtt_ms": round(message.rtt_s * 1000, 3) if message.rtt_s else None,
        "sealed": message.sealed,
    }


def job_progress(disks: Sequence[types_pb2.DiskProgress]) -> Document:
    """The sums of a job's disks over all passes; speed and ETA of those that are still on their way."""
    moving = [one for one in disks if not one.sealed]
    unknown = any(one.eta_s < 0 for one in moving)
    sums = {name: sum(getattr(one, name) for one in disks) for name in SUMMED}
    return {
        **sums,
        "rate_bytes_per_s": sum(one.rate_bytes_per_s for one in moving),
        "eta_s": None if unknown else max((one.eta_s for one in moving), default=0.0),
        "compression_ratio": _ratio(sum(one.unpacked_bytes for one in disks), sum(one.packed_bytes for one in disks)),
    }


def _ratio(before: int, after: int) -> float | None:
    return round(before / after, 3) if after else None


def inspection_request(caller: Caller, body: InspectionIn, trust_id: str = "") -> job_pb2.StartInspectionRequest:
    """The inspection that ``body`` asks for, in the caller's project."""
    return job_pb2.StartInspectionRequest(
        project_id=caller.project_id,
        user_id=caller.user_id,
        origin=endpoint_message(body.origin.type, body.origin.connection_info, body.origin.source_environment),
        instance=body.instance,
        target_platform=body.target_platform or "",
        conversion_json=json.dumps(body.conversion) if body.conversion else "",
        trust_id=trust_id,
    )


def inspection(message: job_pb2.Inspection) -> Document:
    """An inspection; what it found is null before its end."""
    found = json_object(message.found_json)
    return {
        "id": message.id,
        "instance": message.instance,
        "status": message.status,
        "target_platform": message.target_platform,
        "message": message.message or None,
        "system": found.get("system"),
        "steps": found.get("steps", []),
        "findings": found.get("findings", []),
        "convertible": found.get("convertible"),
        "events": list(message.events),
        "created_at": message.created_at,
    }


def verification(message: job_pb2.Verification) -> Document:
    """A verification and its disks."""
    return {
        "id": message.id,
        "migration_id": message.migration_id,
        "status": message.status,
        "message": message.message or None,
        "sample": message.sample or None,
        "seed": message.seed if message.sample else None,
        "disks": [
            {
                "instance": one.instance,
                "disk_id": one.disk_id,
                "checked_bytes": one.checked_bytes,
                "differing_bytes": one.differing_bytes,
                "first_difference": one.first_difference if one.differing_bytes else None,
                "message": one.message or None,
                "size_bytes": one.size_bytes,
                "cells": one.cells,
                "checked_cells": one.checked_cells,
                "differing_cell_count": one.differing_cell_count,
                "differing_cells": list(one.differing_cells),
                "root": one.root or None,
            }
            for one in message.disks
        ],
    }


def manifest(message: job_pb2.Manifest) -> Document:
    """What was signed of a sealed disk, without the signatures."""
    after = message.deployed
    return {
        "instance": message.instance,
        "disk_id": message.disk_id,
        "size_bytes": message.size_bytes,
        "cell_bytes": CELL_BYTES,
        "pass_number": message.pass_number,
        "generation": message.generation,
        "snapshot_identity": message.snapshot_identity,
        "data_cells": message.data_cells,
        "zero_cells": message.zero_cells,
        "pass_root": message.pass_root,
        "root": message.root,
        "sealed_at": message.sealed_at,
        "signers": list(message.signers),
        "deployed": {
            "root": after.root,
            "deployed_at": after.deployed_at,
            "signer": after.signer,
            "data_cells": after.data_cells,
            "zero_cells": after.zero_cells,
        }
        if message.HasField("deployed")
        else None,
    }


def manifest_detail(message: job_pb2.Manifest) -> Document:
    """``manifest`` with signatures, certificates and, for disks of at most 64 GiB, leaves."""
    return {
        **manifest(message),
        "statements": [
            {
                "statement": one.statement,
                "signature": base64.b64encode(one.signature).decode(),
                "certificate": one.certificate,
            }
            for one in message.statements
        ],
        "leaves": [leaf.hex() for leaf in message.leaves] or None,
        "deployed_leaves": [leaf.hex() for leaf in message.deployed.leaves] or None,
    }


def secret(message: endpoint_pb2.SecretInfo) -> Document:
    """A secret without its payload."""
    return {"id": message.id, "name": message.name, "created_at": message.created_at}


def agent_service(message: cluster_pb2.Agent) -> Document:
    """An agent as a service; ``status`` is UP when the leader has a session with it."""
    specs = {"site": message.site, "version": message.version, "connected": message.connected}
    providers = {info.type: {"types": provider_types(info)} for info in message.providers}
    up = message.alive and message.connected
    return _service(message.id, "coriolis-worker", up, providers, specs)


def link(message: cluster_pb2.Link) -> Document:
    """Unknown and absent values are null."""
    return {
        "origin_site": message.origin_site,
        "destination_site": message.destination_site,
        "agents": list(message.agents),
        "path": message.path or None,
        "relay": message.relay or None,
        "rtt_ms": round(message.rtt_ms, 3) if message.rtt_ms >= 0 else None,
        "speed_bytes_per_s": message.speed_bytes_per_s,
        "best_speed_bytes_per_s": message.best_speed_bytes_per_s,
        "limit_bytes_per_s": message.limit_bytes_per_s if message.HasField("limit_bytes_per_s") else None,
        "state": message.state,
        "why": message.why,
    }


def coordinator_service(message: cluster_pb2.Coordinator) -> Document:
    """A coordinator as a service; ``specs.leader`` marks the leading one."""
    specs = {"version": message.version, "leader": message.leader, "address": message.address}
    return _service(message.id, "coriolis-coordinator", True, {}, specs)


def _service(id_: str, binary: str, up: bool, providers: Document, specs: Document) -> Document:
    return {
        "id": id_,
        "host": id_,
        "binary": binary,
        "topic": binary.replace("-", "_"),
        "enabled": True,
        "status": "UP" if up else "DOWN",
        "providers": providers,
        "specs": specs,
        "mapped_regions": [],
        **_row(EPOCH),
    }


def provider_types(info: cluster_pb2.ProviderInfo) -> list[int]:
    """The integers under which clients know what a provider can do."""
    capabilities = json_object(info.capabilities_json)
    types = [ENDPOINT]
    if capabilities.get("destination"):
        types += [TRANSFER_IMPORT, OS_MORPHING]
    if capabilities.get("origin"):
        types.append(TRANSFER_EXPORT)
    return sorted(types)


def provider_schema(info: cluster_pb2.ProviderInfo, type_: int) -> Document | None:
    """The JSON schema behind one of those integers, under its published name; None for the others."""
    match type_:
        case 4:
            return {"destination_environment_schema": json_object(info.destination_environment_schema_json)}
        case 8:
            return {"source_environment_schema": json_object(info.source_environment_schema_json)}
        case 16:
            return {"connection_info_schema": json_object(info.connection_schema_json)}
    return None


def _row(created_at: str, updated_at: str = "") -> Document:
    return {"created_at": created_at, "updated_at": updated_at or None, "deleted_at": None, "deleted": "0"}


def json_object(text: str) -> Document:
    """Empty for no text, and for JSON that is no object."""
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
