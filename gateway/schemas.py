"""Bodies as clients send them: strict types, unknown fields refused by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from coriolis.model.bandwidth import MAX_WINDOWS

MAX_INSTANCES = 64
MAX_NAME_CHARS = 255
MAX_NOTES_CHARS = 4096
MAX_REQUEST_ID_CHARS = 128
MAX_TYPE_CHARS = 64
MAX_PASSES = 10
MAX_LIMIT_CHARS = 200
MAX_SAMPLE_CHARS = 32
MAX_SEED = (1 << 53) - 1

JsonObject = dict[str, Any]


class Strict(BaseModel):
    """No coercion: ``"true"`` is not a boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def _name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("must hold a printable name")
    return name


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) != len(names):
        raise ValueError("names one machine twice")
    return names


def _network_map(environment: JsonObject | None) -> JsonObject | None:
    networks = (environment or {}).get("network_map")
    if networks is None:
        return environment
    if not isinstance(networks, dict) or not all(isinstance(value, str) for value in networks.values()):
        raise ValueError("network_map must be an object of origin network names and destination network ids (strings)")
    return environment


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS), AfterValidator(_name)]
ProviderType = Annotated[str, Field(min_length=1, max_length=MAX_TYPE_CHARS, examples=["libvirt"])]
ConnectionInfo = Annotated[
    JsonObject | None,
    Field(
        description='How to reach the cloud, by the provider\'s schema; or {"secret_id": ID} or '
        '{"secret_ref": URL} of a stored secret; with Keystone, empty means the cloud that gave the token',
        examples=[{"secret_id": "0a0a0a0a-0000-4000-8000-000000000001"}],
    ),
]


class OriginIn(Strict):
    """The cloud that the machines leave."""

    type: ProviderType
    connection_info: ConnectionInfo
    source_environment: JsonObject | None = None


class DestinationIn(Strict):
    """The cloud that the machines go to. Null means empty, as older clients send it."""

    type: ProviderType
    connection_info: ConnectionInfo = None
    target_environment: Annotated[JsonObject | None, AfterValidator(_network_map)] = Field(
        default=None, description="By the provider's schema; network_map maps origin networks to destination networks"
    )


class MigrationIn(Strict):
    """What to migrate and how. Null means the default."""

    origin: OriginIn
    destination: DestinationIn
    instances: Annotated[
        list[Name], Field(min_length=1, max_length=MAX_INSTANCES, examples=[["vm-01"]]), AfterValidator(_unique)
    ]
    notes: Annotated[str | None, Field(max_length=MAX_NOTES_CHARS)] = None
    replication_count: Annotated[int | None, Field(ge=1, le=MAX_PASSES, description="Sync passes; default 2")] = None
    shutdown_instances: Annotated[
        bool | None, Field(description="Stop the origin before the last pass; default true")
    ] = None
    skip_os_morphing: bool | None = None
    user_scripts: Annotated[
        JsonObject | None,
        Field(
            description="{global: {os_type: S}, instances: {instance: S}}; S: a script, or a list of "
            "{payload, phase: osmorphing_pre_os_mount | osmorphing_post_os_mount | replica_first_boot}",
            examples=[{"global": {"linux": "#!/bin/sh\ntouch /etc/migrated\n"}, "instances": {}}],
        ),
    ] = None
    request_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_REQUEST_ID_CHARS,
            description="Repeating a request with the same id gives the migration that the first one made",
        ),
    ] = None


class CreateMigrationBody(Strict):
    """The body of a creation."""

    migration: MigrationIn


class InspectionIn(Strict):
    """Which machine to look into, and for what it would be converted."""

    origin: OriginIn
    instance: Name
    target_platform: Annotated[
        str | None, Field(max_length=40, examples=["kvm"], description="What it would be converted for; default kvm")
    ] = None
    conversion: Annotated[JsonObject | None, Field(description="As conversion of a target_environment")] = None


class CreateInspectionBody(Strict):
    """The body of an inspection."""

    inspection: InspectionIn


class SurveyIn(Strict):
    """One end of a migration: exactly one of ``origin`` and ``destination``."""

    origin: OriginIn | None = None
    destination: DestinationIn | None = None
    instances: Annotated[
        list[Name] | None, Field(max_length=MAX_INSTANCES, description="Machines of the origin to describe too")
    ] = None

    @model_validator(mode="after")
    def _one_end(self) -> SurveyIn:
        if (self.origin is None) == (self.destination is None):
            raise ValueError("give exactly one of origin and destination")
        if self.instances and self.origin is None:
            raise ValueError("instances are machines of an origin; a destination has none to describe")
        if self.instances:
            _unique(self.instances)
        return self


class CreateSurveyBody(Strict):
    """The body of a survey."""

    survey: SurveyIn


class SecretIn(Strict):
    """``payload`` stands for a connection_info and is never returned."""

    name: Name
    payload: Annotated[JsonObject, Field(description="Write only; at most 64 KiB", examples=[{"password": "..."}])]


class CreateSecretBody(Strict):
    """The body of a secret's creation."""

    secret: SecretIn


class BandwidthLimitIn(Strict):
    """Rates are written ``200Mbit/s``, ``25MB/s``, ``25MiB/s``, ``0`` (paused) or ``none``."""

    rate: Annotated[
        str, Field(max_length=MAX_LIMIT_CHARS, examples=["none"], description="Outside of all windows of the calendar")
    ]
    calendar: Annotated[
        list[Annotated[str, Field(max_length=MAX_LIMIT_CHARS)]] | None,
        Field(
            max_length=MAX_WINDOWS,
            examples=[["Mon-Fri 08:00-18:00 200Mbit/s"]],
            description="Every week another rate: days, from-to, rate; where windows overlap, the lowest holds",
        ),
    ] = None
    time_zone: Annotated[
        str | None, Field(max_length=MAX_LIMIT_CHARS, examples=["Europe/Paris"], description="IANA name; default UTC")
    ] = None


class BandwidthLimitBody(Strict):
    """The body of a limit."""

    bandwidth_limit: BandwidthLimitIn


class CancelArguments(Strict):
    """``force`` ends running tasks without waiting for them to clean up after themselves."""

    force: bool = False


class VerifyArguments(Strict):
    """Without ``sample`` every cell is read."""

    sample: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_SAMPLE_CHARS,
            examples=["5%"],
            description="How much of each disk to read: 5%, 200MiB; at least 1 MiB of each GiB is",
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(ge=0, le=MAX_SEED, description="Repeats the choice of an earlier sample; default: a random one, told"),
    ] = None


class ActionBody(Strict):
    """Exactly one key: the action."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"minProperties": 1, "maxProperties": 1}, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _one_action(cls, body: Any) -> Any:
        if isinstance(body, dict):
            if len(body) != 1:
                raise ValueError("Malformed request body: exactly one action is required")
            action = str(next(iter(body)))
            if action not in cls.model_fields:
                raise ValueError(f"There is no such action: {action[:MAX_TYPE_CHARS]}")
        return body

    cancel: CancelArguments | None = None
    renew_credentials: None = Field(
        default=None, description="The caller's token replaces what the migration was given to act for its owner"
    )
    verify: VerifyArguments | None = Field(
        default=None, description="Re-read the finished volumes against their manifests, whole or a sample"
    )
