from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2, endpoint_pb2, job_pb2
from coriolis.security.redact import (
    LiveSecrets,
    is_secret_name,
    masked_document,
    masked_message,
    secret_values,
)


def test_sensitive_fields_are_masked_at_any_depth_and_the_original_stays() -> None:
    request = job_pb2.CreateMigrationRequest(
        origin=endpoint_pb2.Endpoint(type="libvirt", connection_info_json='{"password":"hunter2"}'),
        destination=endpoint_pb2.Endpoint(type="libvirt"),
        instances=["vm"],
    )
    masked = masked_message(request)
    assert "hunter2" not in str(masked)
    assert masked.origin.connection_info_json == "***"
    assert masked.origin.type == "libvirt"
    assert list(masked.instances) == ["vm"]
    assert masked.destination.connection_info_json == ""
    assert request.origin.connection_info_json == '{"password":"hunter2"}'

    repeated = job_pb2.ListMigrationsResponse(migrations=[job_pb2.Migration(origin=request.origin)])
    answer = agent_control_pb2.ResolveConnectionResponse(connection_info_json="hunter2")
    for message in (repeated, answer, endpoint_pb2.PutSecretRequest(payload_json="hunter2")):
        assert "hunter2" not in str(masked_message(message))


@pytest.mark.parametrize(
    "name",
    ["password", "adminPassword", "api-key", "secret_access_key", "private_key", "token", "auth_token", "key",
     "AccountKey", "client_secret", "sasToken", "connection_string", "Authorization", "user_data", "passwd"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["username", "secret_id", "secret_ref", "publicKey", "ssh_public_key", "keyboard", "host", "monkey_id"],
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_documents_are_masked_by_schema_and_by_name() -> None:
    schema = {
        "properties": {
            "pin": {"writeOnly": True},
            "key": {"writeOnly": False},
            "hosts": {"items": {"properties": {"code": {"writeOnly": True}}}},
        }
    }
    document = {
        "pin": 1234,
        "key": "ssh-name",
        "password": "hunter2",
        "empty_password": "",
        "hosts": [{"code": "c0de", "name": "a"}],
        "secret_id": "s-1",
        "nested": {"credentials": {"user": "u", "deep": ["dddd"]}},
    }
    assert masked_document(document, schema) == {
        "pin": "***",
        "key": "ssh-name",
        "password": "***",
        "empty_password": "",
        "hosts": [{"code": "***", "name": "a"}],
        "secret_id": "s-1",
        "nested": {"credentials": "***"},
    }
    assert document["password"] == "hunter2"
    assert sorted(secret_values(document, schema)) == ["", "c0de", "dddd", "hunter2", "u"]


def test_endless_nesting_is_cut() -> None:
    deep: object = "x"
    for _ in range(200):
        deep = {"a": deep}
    assert "***" in json.dumps(masked_document(deep))
    assert secret_values(deep) == []


@given(st.text(min_size=4, max_size=40))
def test_a_live_secret_never_survives_in_any_form(secret: str) -> None:
    live = LiveSecrets()
    usable = secret.encode("utf-8", "ignore").decode()
    if len(usable) < 4:
        return
    raw = usable.encode()
    lines = {
        usable,
        json.dumps({"error": usable})[len('{"error": "') : -2],
        repr(usable)[1:-1],
        quote(raw, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
    }
    with live.live(usable):
        for line in lines:
            assert live.mask(line) == "***"
            assert live.mask(f"x{line}y") == "x***y"
    assert live.mask(usable) == usable


def test_a_secret_used_twice_stays_masked_until_both_are_done() -> None:
    live = LiveSecrets()
    with live.live("hunter2"):
        with live.live("hunter2", "abc"):
            assert live.mask("abc hunter2") == "abc ***"
        assert live.mask("hunter2") == "***"
    assert live.mask("hunter2") == "hunter2"


def test_a_secret_inside_of_another_one_leaves_no_rest() -> None:
    live = LiveSecrets()
    with live.live("hunter2", "hunter2-and-more"):
        assert live.mask("hunter2-and-more") == "***"
