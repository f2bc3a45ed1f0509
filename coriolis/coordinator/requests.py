"""From a create request to a migration record: every check that needs no cloud. Errors name the field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import msgspec

from coriolis.convert.platforms import target_platform
from coriolis.coordinator.vault import BY_REFERENCE, Vault, masked
from coriolis.errors import InvalidInput
from coriolis.ids import new_id
from coriolis.model.environment import COMMON_CONNECTION, COMMON_DESTINATION, COMMON_SOURCE
from coriolis.model.job import (
    MAX_INSTANCES,
    MAX_REPLICATION_COUNT,
    DeploymentOptions,
    Endpoint,
    Migration,
    Transfer,
)
from coriolis.model.user_scripts import checked as checked_scripts
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2, endpoint_pb2, job_pb2

DEFAULT_REPLICATION_COUNT = 2
MAX_NAME_CHARS = 255
MAX_NOTES_CHARS = 4096
MAX_REQUEST_ID_CHARS = 128
OF_THE_CALLERS_CLOUD = frozenset({"region_name"})
"""A connection_info with nothing but these, to a provider that takes tokens, means the caller's own cloud."""

Schemas = Mapping[str, cluster_pb2.ProviderInfo]


def body_digest(request: job_pb2.CreateMigrationRequest) -> str:
    """Tells whether a repeated request id came with the same body."""
    copy = job_pb2.CreateMigrationRequest()
    copy.CopyFrom(request)
    copy.user_id = ""
    copy.trust_id = ""  # each attempt makes one of its own
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).hexdigest()


async def build_migration(
    request: job_pb2.CreateMigrationRequest, providers: Schemas, vault: Vault, now: str
) -> Migration:
    """Raises InvalidInput naming the wrong field, NotFound for a secret that is not the project's."""
    migration_id, execution_id = new_id(), new_id()
    instances = check_instances(list(request.instances))
    passes = request.replication_count or DEFAULT_REPLICATION_COUNT
    if passes > MAX_REPLICATION_COUNT:
        raise InvalidInput(f"replication_count is {passes}; 1 to {MAX_REPLICATION_COUNT} are possible")
    if len(request.notes) > MAX_NOTES_CHARS:
        raise InvalidInput(f"notes has {len(request.notes)} characters, at most {MAX_NOTES_CHARS} are kept")
    scripts = checked_scripts(_json_object("user_scripts", request.user_scripts_json), instances)
    if len(request.request_id) > MAX_REQUEST_ID_CHARS:
        raise InvalidInput(f"request_id has more than {MAX_REQUEST_ID_CHARS} characters")
    owner = Owner(request.project_id, execution_id, request.trust_id)
    sealed_trust = ""
    if request.trust_id:
        sealed_trust = await vault.seal_trust(request.project_id, execution_id, request.trust_id)
    origin, _ = await read_endpoint("origin", request.origin, owner, providers, vault)
    destination, network_map = await read_endpoint("destination", request.destination, owner, providers, vault)
    if platform := destination.environment.get("conversion", {}).get("platform"):
        target_platform(platform)
    if len(instances) > 1 and "instance_name" in destination.environment:
        raise InvalidInput("destination.target_environment.instance_name names one machine, instances several")
    return Migration(
        id=migration_id,
        project_id=request.project_id,
        user_id=request.user_id,
        execution_id=execution_id,
        transfer=Transfer(origin, destination, instances, network_map, request.notes, scripts),
        deployment=DeploymentOptions(
            skip_os_morphing=request.skip_os_morphing,
            proof_of_boot=_proof_of_boot(destination, providers),
            shutdown_instances=request.shutdown_instances if request.HasField("shutdown_instances") else True,
        ),
        replication_count=passes,
        created_at=now,
        request_id=request.request_id,
        sealed_trust=sealed_trust if any(map(uses_trust, (origin, destination))) else "",
    )


def _proof_of_boot(destination: Endpoint, providers: Schemas) -> bool:
    wanted = bool(destination.environment.get("conversion", {}).get("proof_of_boot", False))
    if wanted and not json.loads(providers[destination.type].capabilities_json).get("proof_of_boot"):
        raise InvalidInput(
            f"destination.target_environment.conversion.proof_of_boot: a {destination.type} destination cannot do it"
        )
    return wanted


def check_instances(names: list[str]) -> tuple[str, ...]:
    """The names as they are. Raises InvalidInput for none, too many, doubles and impossible ones."""
    if not names:
        raise InvalidInput("instances is empty; name at least one")
    if len(names) > MAX_INSTANCES:
        raise InvalidInput(f"instances has {len(names)} entries, at most {MAX_INSTANCES} fit in one migration")
    if len(set(names)) != len(names):
        raise InvalidInput("instances names one machine twice")
    for name in names:
        if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise InvalidInput(f"instances holds {name[:40]!r}, which is no name of 1 to {MAX_NAME_CHARS} characters")
    return tuple(names)


class Owner(msgspec.Struct, frozen=True):
    """For whom endpoints are read. ``trust_id``: the caller's, empty without Keystone."""

    project_id: str
    execution_id: str
    trust_id: str = ""


def uses_trust(endpoint: Endpoint) -> bool:
    """Whether the mesh acts as the caller for it. With the embedded store ``secret_id`` needs none, and has none."""
    return endpoint.delegated or bool(endpoint.secret_id)


async def read_endpoint(
    field: str, message: endpoint_pb2.Endpoint, owner: Owner, providers: Schemas, vault: Vault
) -> tuple[Endpoint, dict[str, str]]:
    """``field`` is origin or destination; (the endpoint, its network map).

    Raises InvalidInput naming the wrong field, NotFound for a secret that is not the project's, and what Barbican says.
    """
    info = providers.get(message.type)
    if info is None:
        known = ", ".join(sorted(providers)) or "none, no agent has registered yet"
        raise InvalidInput(f"{field}.type {message.type[:60]!r} is not served by any agent; known: {known}")
    capability = "origin" if field == "origin" else "destination"
    capabilities = json.loads(info.capabilities_json)
    if not capabilities.get(capability):
        raise InvalidInput(f"{field}.type {message.type!r} cannot be used as a {capability}")
    connection = _json_object(f"{field}.connection_info", message.connection_info_json)
    environment = _json_object(f"{field}.environment", message.environment_json)
    network_map = _network_map(environment.pop("network_map", {}) or {})
    schema = with_common(json.loads(info.connection_schema_json), COMMON_CONNECTION)
    shown: dict[str, Any] = connection
    secret_id, delegated = "", False
    if BY_REFERENCE & set(connection):
        secret_id = vault.check_reference(field, connection)
        opened = await vault.resolve_secret(owner.project_id, secret_id, owner.trust_id)
    elif capabilities.get("takes_tokens") and set(connection) <= OF_THE_CALLERS_CLOUD:
        delegated = True
        opened = await vault.delegated(owner.trust_id, connection)
    else:
        opened, shown = connection, masked(connection, schema)
    check_schema(f"{field}.connection_info", opened, schema)
    if field == "origin":
        schema = with_common(json.loads(info.source_environment_schema_json), COMMON_SOURCE)
        check_schema("origin.source_environment", environment, schema)
    else:
        schema = with_common(json.loads(info.destination_environment_schema_json), COMMON_DESTINATION)
        check_schema("destination.target_environment", environment, schema)
    sealed = "" if secret_id or delegated else vault.seal(owner.execution_id, connection)
    return Endpoint(message.type, environment, shown, sealed, secret_id, delegated), network_map


def with_common(schema: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """A provider's environment schema with the members that every provider has."""
    return {**schema, "properties": {**common, **schema.get("properties", {})}}


def _json_object(field: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as broken:
        raise InvalidInput(f"{field} is not JSON") from broken
    if not isinstance(value, dict):
        raise InvalidInput(f"{field} must be an object")
    return value


def _network_map(value: Any) -> dict[str, str]:
    try:
        return msgspec.convert(value, dict[str, str])
    except msgspec.ValidationError as wrong:
        raise InvalidInput(f"destination.target_environment.network_map: {wrong}") from wrong


def check_schema(field: str, document: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raises InvalidInput with the path of the first wrong member; its value is never repeated (it may be a secret)."""
    errors = sorted(jsonschema.Draft202012Validator(schema).iter_errors(document), key=lambda e: list(e.absolute_path))
    if not errors:
        return
    error = errors[0]
    path = ".".join([field, *(str(part) for part in error.absolute_path)])
    raise InvalidInput(f"{path}: {_complaint(error)}")


def _complaint(error: jsonschema.ValidationError) -> str:
    match error.validator:
        case "additionalProperties":
            known = set(error.schema.get("properties", {})) if isinstance(error.schema, dict) else set()
            extra = sorted(set(_members(error.instance)) - known)
            return f"unknown member {', '.join(repr(str(name)[:60]) for name in extra)}"
        case "required":
            required = error.validator_value if isinstance(error.validator_value, list) else []
            missing = sorted(set(map(str, required)) - set(_members(error.instance)))
            return f"member {', '.join(map(repr, missing))} is missing"
        case "type":
            return f"must be of type {error.validator_value}"
        case "enum":
            return f"must be one of {error.validator_value}"
        case validator:
            return f"violates {validator} {error.validator_value}"


def _members(instance: object) -> list[str]:
    return [str(name) for name in instance] if isinstance(instance, dict) else []
