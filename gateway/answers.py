"""Answers as OpenAPI describes them. Documents are built by ``translate``; a test holds both together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Timestamp = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$", examples=["2026-01-02T03:04:05.000000"])
]
Identifier = Annotated[str, Field(examples=["33333333-3333-4333-8333-333333333333"])]


class Answer(BaseModel):
    """Answers hold these members and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Row(Answer):
    """What every stored thing carries."""

    created_at: Timestamp
    updated_at: Timestamp | None
    deleted_at: None
    deleted: Literal["0"]


class ErrorDetail(BaseModel):
    """401 carries ``title`` instead of ``fault``."""

    code: int
    message: str
    fault: str | None = None
    title: str | None = None


class Error(BaseModel):
    """Every failure has this form."""

    error: ErrorDetail


class Event(Row):
    """One line for operators."""

    id: Identifier
    task_id: Identifier
    level: Literal["INFO", "WARNING", "ERROR"]
    index: int
    message: str


class ProgressUpdate(Row):
    """``current_step / total_steps`` of a task, one per disk."""

    id: Identifier
    task_id: Identifier
    index: int
    current_step: int
    total_steps: int
    message: str


class Task(Row):
    """One node of a migration's graph."""

    id: Identifier
    execution_id: Identifier
    instance: str
    task_type: str
    status: str
    index: int
    depends_on: list[str] | None
    on_error: bool
    host: str | None
    process_id: int | None
    exception_details: str | None
    events: list[Event]
    progress_updates: list[ProgressUpdate]


class Disk(Answer):
    """Progress of one disk in one pass: bytes, bytes per second, seconds (null while unknown).

    ``sent_bytes`` are those on the wire, after compression; ``compression_ratio`` is that of what was compressed, null
    where nothing was; ``lag_bytes`` were sent and are not durable yet; ``transport`` is grpc or direct, or empty.
    """

    task_id: Identifier
    instance: str
    disk_id: str
    pass_number: int
    total_bytes: int
    done_bytes: int
    read_bytes: int
    sent_bytes: int
    written_bytes: int
    zero_bytes: int
    durable_bytes: int
    resent_bytes: int
    lag_bytes: int
    rate_bytes_per_s: int
    eta_s: float | None
    compression_ratio: float | None
    compression_level: int
    transport: str
    lanes: int
    rtt_ms: float | None
    sealed: bool


class JobProgress(Answer):
    """Sums over the disks and passes of a migration; ``eta_s`` is that of the slowest disk, null while unknown."""

    total_bytes: int
    done_bytes: int
    read_bytes: int
    sent_bytes: int
    written_bytes: int
    zero_bytes: int
    resent_bytes: int
    lag_bytes: int
    rate_bytes_per_s: int
    eta_s: float | None
    compression_ratio: float | None


class Origin(Answer):
    """Secret members of ``connection_info`` read ``***``."""

    type: str
    connection_info: dict[str, Any]
    source_environment: dict[str, Any]


class Destination(Answer):
    """Secret members of ``connection_info`` read ``***``."""

    type: str
    connection_info: dict[str, Any]
    target_environment: dict[str, Any]


class Migration(Row):
    """A migration; members that have no meaning here stay null or empty for older clients."""

    id: Identifier
    base_id: Identifier
    type: Literal["migration"]
    status: str
    last_execution_status: str
    execution_id: Identifier
    user_id: str
    project_id: str
    instances: list[str]
    origin: Origin
    destination: Destination
    source_environment: dict[str, Any]
    destination_environment: dict[str, Any]
    network_map: dict[str, str]
    storage_mappings: dict[str, Any]
    user_scripts: dict[str, Any]
    notes: str | None
    replication_count: int
    shutdown_instances: bool
    skip_os_morphing: bool
    clustered: bool
    replica_id: None
    reservation_id: None
    origin_endpoint_id: None
    destination_endpoint_id: None
    origin_minion_pool_id: None
    destination_minion_pool_id: None
    instance_osmorphing_minion_pool_mappings: dict[str, Any]
    info: dict[str, Any]
    transfer_result: dict[str, Any] | None
    tasks: list[Task]
    disks: list[Disk]
    progress: JobProgress | None
    residue: list[str]
    waiting_for: str | None


class MigrationAnswer(Answer):
    migration: Migration


class Link(Answer):
    rel: Literal["next"]
    href: str


class MigrationsAnswer(Answer):
    """``migrations_links`` is there when more follow."""

    migrations: list[Migration]
    migrations_links: list[Link] = []


class VerifiedDisk(Answer):
    instance: str
    disk_id: str
    checked_bytes: int
    differing_bytes: int
    first_difference: int | None
    message: str | None
    size_bytes: int
    cells: int
    checked_cells: int
    differing_cell_count: int
    differing_cells: list[int]
    root: str | None


class Verification(Answer):
    """``status`` is RUNNING, COMPLETED (all equal), DIFFERS or ERROR; ``sample`` is null when every cell is read."""

    id: Identifier
    migration_id: Identifier
    status: Literal["RUNNING", "COMPLETED", "DIFFERS", "ERROR"]
    disks: list[VerifiedDisk]
    message: str | None
    sample: str | None
    seed: int | None


class VerificationAnswer(Answer):
    verification: Verification


class DeployedManifest(Answer):
    """What conversion made of a sealed disk, by the word of the agent that converted it."""

    root: str
    deployed_at: Timestamp
    signer: str
    data_cells: int
    zero_cells: int


class Manifest(Answer):
    """Of the last sealed pass of a disk; cells of ``cell_bytes``. ``signers``: the source's agent, the sink's."""

    instance: str
    disk_id: str
    size_bytes: int
    cell_bytes: int
    pass_number: int
    generation: int
    snapshot_identity: str
    data_cells: int
    zero_cells: int
    pass_root: str
    root: str
    sealed_at: Timestamp
    signers: list[str]
    deployed: DeployedManifest | None


class ManifestsAnswer(Answer):
    manifests: list[Manifest]


class SignedStatement(Answer):
    """``signature`` (base64) is over ``coriolis-statement-1``, a line feed and ``statement``, as it stands here."""

    statement: str
    signature: str
    certificate: str


class ManifestDetail(Manifest):
    """``statements``: the source's, the sink's, the conversion's. Leaves (hex, one per GiB) are null above 64."""

    statements: list[SignedStatement]
    leaves: list[str] | None
    deployed_leaves: list[str] | None


class ManifestAnswer(Answer):
    manifest: ManifestDetail


class Service(Row):
    """An agent (``coriolis-worker``) or a coordinator (``coriolis-coordinator``)."""

    id: str
    host: str
    binary: Literal["coriolis-worker", "coriolis-coordinator"]
    topic: str
    enabled: bool
    status: Literal["UP", "DOWN"]
    providers: dict[str, Any]
    specs: dict[str, Any]
    mapped_regions: list[str]


class ServiceAnswer(Answer):
    service: Service


class ServicesAnswer(Answer):
    services: list[Service]


class SiteLink(Answer):
    """The way of disk data from a site to another."""

    origin_site: str
    destination_site: str
    agents: list[str]
    path: Literal["dialled", "reverse", "relay"] | None
    relay: str | None
    rtt_ms: float | None
    speed_bytes_per_s: int
    best_speed_bytes_per_s: int
    limit_bytes_per_s: int | None
    state: Literal["OPEN", "UNKNOWN", "CLOSED"]
    why: str


class LinksAnswer(Answer):
    links: list[SiteLink]


class ProvidersAnswer(Answer):
    providers: dict[str, Any]


class SchemasAnswer(Answer):
    schemas: dict[str, Any]


class Secret(Answer):
    id: Identifier
    name: str
    created_at: Timestamp


class SecretAnswer(Answer):
    secret: Secret


class SecretsAnswer(Answer):
    secrets: list[Secret]


class RateChange(Answer):
    """From ``at`` (UTC) on."""

    at: Timestamp
    rate: str
    rate_bytes_per_s: int | None


class BandwidthLimit(Row):
    """``rate`` holds outside of the calendar, ``rate_now`` at the moment; bytes per second, null is no limit."""

    scope: Literal["agent", "link", "job"]
    name: str
    rate: str
    rate_bytes_per_s: int | None
    calendar: list[str]
    time_zone: str
    rate_now: str
    rate_now_bytes_per_s: int | None
    next_change: RateChange | None


class BandwidthLimitAnswer(Answer):
    bandwidth_limit: BandwidthLimit


class BandwidthLimitsAnswer(Answer):
    bandwidth_limits: list[BandwidthLimit]
