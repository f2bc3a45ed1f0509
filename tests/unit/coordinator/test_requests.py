"""What a creation is checked for before anything is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coriolis.coordinator.requests import build_migration
from coriolis.coordinator.vault import masked
from coriolis.errors import InvalidInput
from coriolis.model.job import Migration
from coriolis.providers.openstack.connection_schema import CONNECTION
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2, endpoint_pb2, job_pb2

ANY = json.dumps({"type": "object", "properties": {}, "additionalProperties": False})
CAN: dict[str, Any] = {"origin": True, "destination": True}


class OpenVault:
    """Seals nothing away: what it was given can be read."""

    def seal(self, execution_id: str, connection: dict[str, Any]) -> str:
        return json.dumps(connection)


def provider(**capabilities: Any) -> cluster_pb2.ProviderInfo:
    return cluster_pb2.ProviderInfo(
        capabilities_json=json.dumps({**CAN, **capabilities}),
        connection_schema_json=ANY,
        source_environment_schema_json=ANY,
        destination_environment_schema_json=ANY,
    )


async def build(
    environment: dict[str, Any], connection: dict[str, Any] | None = None, scripts: Any = None, **can: Any
) -> Migration:
    request = job_pb2.CreateMigrationRequest(
        origin=endpoint_pb2.Endpoint(type="x"),
        destination=endpoint_pb2.Endpoint(
            type="x", environment_json=json.dumps(environment), connection_info_json=json.dumps(connection or {})
        ),
        instances=["vm"],
        user_scripts_json=json.dumps(scripts) if scripts else "",
    )
    return await build_migration(request, {"x": provider(**can)}, OpenVault(), "now")  # type: ignore[arg-type]


async def test_proof_of_boot_is_asked_only_of_those_who_can() -> None:
    wanted = {"conversion": {"proof_of_boot": True}}
    assert (await build(wanted, proof_of_boot=True)).deployment.proof_of_boot
    assert not (await build({}, proof_of_boot=True)).deployment.proof_of_boot
    with pytest.raises(InvalidInput, match=r"conversion.proof_of_boot: a x destination cannot"):
        await build(wanted)


@pytest.mark.parametrize(
    "conversion",
    [
        {"way": "quick"},
        {"addressing": "static"},
        {"nics": {"52-54-00-00-00-01": "dhcp"}},
        {"nics": {"52:54:00:00:00:01": "auto"}},
        {"platform": "xen"},
        {"speed": 1},
    ],
)
async def test_wrong_options_of_conversion_are_refused(conversion: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await build({"conversion": conversion})


async def test_good_options_are_kept() -> None:
    conversion = {"way": "full", "addressing": "dhcp", "nics": {"52:54:00:00:00:01": "keep"}, "platform": "openstack"}
    made = await build({"conversion": conversion}, scripts={"global": {"linux": "true"}, "instances": None})
    assert made.transfer.destination.environment["conversion"] == conversion
    assert made.transfer.user_scripts == {"global": {"linux": "true"}}


async def test_a_passphrase_is_taken_by_every_provider_and_never_shown() -> None:
    made = await build({}, {"encrypted_disks_passphrase": "open sesame"})
    assert "open sesame" in made.transfer.destination.sealed_connection
    assert "open sesame" not in json.dumps(made.transfer.destination.shown_connection)


def test_a_secret_below_another_member_is_not_shown_either() -> None:
    """A clouds.yaml has its password below ``auth``."""
    given = {"auth": {"username": "u", "password": "hunter2", "unknown": "x"}, "region_name": "R", "verify": False}
    assert masked(given, CONNECTION) == {
        "auth": {"username": "u", "password": "***", "unknown": "***"},
        "region_name": "R",
        "verify": False,
    }
    host = {"properties": {"name": {}, "key": {"writeOnly": True}}}
    schema = {"properties": {"hosts": {"type": "array", "items": host}}}
    assert masked({"hosts": [{"name": "a", "key": "hunter2"}]}, schema) == {"hosts": [{"name": "a", "key": "***"}]}
    assert masked({"hosts": ["hunter2"]}, {"properties": {"hosts": {"type": "array"}}}) == {"hosts": ["***"]}
