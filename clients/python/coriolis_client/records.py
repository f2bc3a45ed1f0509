"""What the client gives and takes: frozen values, free of gRPC."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from coriolis.rpc.gen.coriolis.v1 import endpoint_pb2, job_pb2, types_pb2

TERMINAL = frozenset({"COMPLETED", "ERROR", "CANCELED"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the two clouds. In answers, secret members of ``connection_info`` read ``***``."""

    type: str
    connection_info: dict[str, Any] = field(default_factory=dict, repr=False)
    environment: dict[str, Any] = field(default_factory=dict)

    def message(self) -> endpoint_pb2.Endpoint:
        return endpoint_pb2.Endpoint(
            type=self.type,
            connection_info_json=json.dumps(self.connection_info),
            environment_json=json.dumps(self.environment),
        )

    @classmethod
    def read(cls, message: endpoint_pb2.Endpoint) -> Endpoint:
        return cls(message.type, _object(message.connection_info_json), _object(message.environment_json))


@dataclass(frozen=True, slots=True)
class Disk:
    """Progress of one disk in one pass: bytes, bytes per second, seconds (None while unknown)."""

    instance: str
    disk_id: str
    pass_number: int
    total_bytes: int
    done_bytes: int
    sent_bytes: int
    zero_bytes: int
    durable_bytes: int
    rate_bytes_per_s: int
    eta_s: float | None
    sealed: bool
    transport: str = ""
    lanes: int = 0
    compression_ratio: float | None = None
    resent_bytes: int = 0
    lag_bytes: int = 0

    @classmethod
    def read(cls, message: types_pb2.DiskProgress) -> Disk:
        return cls(
            message.instance,
            message.disk_id,
            message.pass_number,
            message.total_bytes,
            message.done_bytes,
            message.sent_bytes,
            message.zero_bytes,
            message.durable_bytes,
            message.rate_bytes_per_s,
            message.eta_s if message.eta_s >= 0 else None,
            message.sealed,
            message.transport,
            message.lanes,
            message.unpacked_bytes / message.packed_bytes if message.packed_bytes else None,
            message.resent_bytes,
            message.lag_bytes,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """One node of a migration's graph; ``events`` are (level, message), oldest first."""

    id: str
    instance: str
    task_type: str
    status: str
    host: str
    exception_details: str
    events: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, message: types_pb2.Task) -> Task:
        events = tuple((event.level, event.message) for event in message.events)
        return cls(
            message.id,
            message.instance,
            message.task_type,
            message.status,
            message.host,
            message.exception_details,
            events,
        )


@dataclass(frozen=True, slots=True)
class Migration:
    """Times are naive UTC ISO with microseconds; ``updated_at`` is empty until changed.

    ``tasks`` and ``disks`` are empty in lists.
    """

    id: str
    project_id: str
    status: str
    origin: Endpoint
    destination: Endpoint
    instances: tuple[str, ...]
    notes: str
    created_at: str
    updated_at: str
    tasks: tuple[Task, ...]
    disks: tuple[Disk, ...]
    transfer_result: dict[str, Any]
    residue: tuple[str, ...]

    @property
    def ended(self) -> bool:
        return self.status in TERMINAL

    @classmethod
    def read(cls, message: job_pb2.Migration) -> Migration:
        return cls(
            message.id,
            message.project_id,
            message.status,
            Endpoint.read(message.origin),
            Endpoint.read(message.destination),
            tuple(message.instances),
            message.notes,
            message.created_at,
            message.updated_at,
            tuple(map(Task.read, message.tasks)),
            tuple(map(Disk.read, message.disks)),
            _object(message.transfer_result_json),
            tuple(message.residue),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What both agents signed of the last sealed pass of a disk; roots are hex. docs/design/manifests.md.

    ``signers``: identities of the agent that read and of the one that wrote. ``deployed_root`` is empty unless the disk
    was converted. ``statements`` are (text, signature, certificate in PEM) and, with ``leaves``, empty in lists.
    """

    instance: str
    disk_id: str
    size_bytes: int
    pass_number: int
    generation: int
    snapshot_identity: str
    data_cells: int
    zero_cells: int
    root: str
    sealed_at: str
    signers: tuple[str, ...]
    deployed_root: str
    statements: tuple[tuple[str, bytes, str], ...]
    leaves: tuple[bytes, ...]

    @classmethod
    def read(cls, message: job_pb2.Manifest) -> Manifest:
        return cls(
            message.instance,
            message.disk_id,
            message.size_bytes,
            message.pass_number,
            message.generation,
            message.snapshot_identity,
            message.data_cells,
            message.zero_cells,
            message.root,
            message.sealed_at,
            tuple(message.signers),
            message.deployed.root,
            tuple((one.statement, one.signature, one.certificate) for one in message.statements),
            tuple(message.leaves),
        )


@dataclass(frozen=True, slots=True)
class StateChanged:
    """First event of a watch, and again at each change of the migration's status."""

    status: str
    at: str


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task changed its status or gained events."""

    task: Task


@dataclass(frozen=True, slots=True)
class DiskProgressed:
    """A disk went on."""

    disk: Disk


Event = StateChanged | TaskChanged | DiskProgressed


def read_event(message: job_pb2.WatchMigrationResponse) -> Event | None:
    """None for a kind of event that this version does not know."""
    match message.WhichOneof("event"):
        case "state":
            return StateChanged(message.state.status, message.state.at)
        case "task":
            return TaskChanged(Task.read(message.task))
        case "disk":
            return DiskProgressed(Disk.read(message.disk))
    return None


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}
