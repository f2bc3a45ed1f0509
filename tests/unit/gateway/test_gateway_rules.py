"""Policy, error forms, paging and schemas: the rules that need no server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from coriolis.errors import Conflict, CoriolisError, InvalidInput, Throttled, all_errors
from gateway.edge import check_json
from gateway.paging import MAX_LIMIT, Page, read_page
from gateway.policy import RULES, allows
from gateway.problems import FAULTS, from_error, problem, unauthorized, validation_message
from gateway.schemas import ActionBody, CreateMigrationBody
from gateway.settings import GatewayConfig
from tests.api.stack import BODY


def test_policy_denies_by_default() -> None:
    assert not allows("migration:migrations:unheard_of", {"admin"})
    for rule, roles in RULES.items():
        assert not allows(rule, set())
        assert not allows(rule, {"stranger"})
        assert "admin" in roles
        assert ("reader" in roles) == rule.rpartition(":")[2].startswith(("list", "show", "watch")), rule


def test_every_error_has_the_error_form() -> None:
    for kind in all_errors():
        error = kind("what happened")
        answer = from_error(error)
        document = json.loads(answer.body)["error"]
        assert answer.status_code == document["code"] == kind.http_status
        assert document["fault"] == FAULTS.get(kind.http_status, "computeFault")
        plain = isinstance(error, InvalidInput)
        assert document["message"] == ("what happened" if plain else f"{kind.__name__}: what happened")


def test_retry_after_and_bounds() -> None:
    assert from_error(Throttled("x", retry_after_s=1.2)).headers["Retry-After"] == "2"
    assert len(json.loads(problem(418, "x" * 9999).body)["error"]["message"]) == 1024
    assert json.loads(problem(418, "x").body)["error"]["fault"] == "computeFault"
    assert json.loads(unauthorized("http://x/v3").body)["error"]["title"] == "Unauthorized"
    assert from_error(CoriolisError("x")).status_code == 500
    assert from_error(Conflict("x")).status_code == 409


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("", Page()),
        ("limit=&marker=&status=", Page()),
        ("limit=7&status=ERROR", Page(7, "", "ERROR")),
        ("limit=5000", Page(MAX_LIMIT)),
        ("sort_keys=created_at&sort_dirs=desc&sort_key=id&unknown=1", Page()),
    ],
)
def test_pages(query: str, page: Page) -> None:
    assert read_page(QueryParams(query)) == page


def test_next_link_keeps_the_filter() -> None:
    assert Page(2, "", "ERROR").next_link("http://x/m", "id") == "http://x/m?limit=2&marker=id&status=ERROR"


def refusal(model: type[Any], document: Any) -> str:
    with pytest.raises(ValidationError) as wrong:
        model.model_validate(document)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in wrong.value.errors()]
    return validation_message(errors)


def test_messages_name_fields_and_never_values() -> None:
    assert refusal(CreateMigrationBody, {}) == "migration: the request body must be wrapped in the key 'migration'"
    assert refusal(CreateMigrationBody, []) == "Malformed request body: a JSON object is required"
    wrong = {"migration": {**BODY["migration"], "instances": ["open sesame\n"], "origin": {"type": 1, "x": "sesame"}}}
    message = refusal(CreateMigrationBody, wrong)
    for named in ("migration.origin.x: unknown field", "migration.origin.type", "migration.instances.0"):
        assert named in message
    assert "origin.connection_info: this required attribute is missing" in message
    assert "sesame" not in message
    many = {"migration": {**BODY["migration"], **{f"field{n}": 1 for n in range(9)}}}
    assert refusal(CreateMigrationBody, many).endswith("; and 4 more")
    assert refusal(ActionBody, {"a": 1, "b": 2}).startswith("Malformed request body")
    assert refusal(ActionBody, {"explode": None}) == "There is no such action: explode"


def test_older_clients_send_nulls() -> None:
    nulls = dict.fromkeys(("notes", "replication_count", "shutdown_instances", "skip_os_morphing", "request_id"))
    body = {"migration": {**BODY["migration"], **nulls}}
    body["migration"]["destination"] = {"type": "libvirt", "connection_info": None, "target_environment": None}
    assert CreateMigrationBody.model_validate(body).migration.notes is None


@pytest.mark.parametrize("body", [b"{", b"NaN", b'"\\ud800"', b"\xff", b"[" * 99_999, b"[" * 40 + b"]" * 40, b"1e999"])
def test_json_is_strict_and_bounded(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="Malformed request body"):
        check_json(body)


def test_json_of_ordinary_depth_passes() -> None:
    check_json(json.dumps(BODY).encode())
    check_json(b"[" * 32 + b"]" * 32)


@pytest.mark.parametrize("listen", ["7667", ":7667", "host:", "host:x", "host:70000"])
def test_a_wrong_listen_address_is_refused(listen: str) -> None:
    with pytest.raises(InvalidInput, match="listen"):
        GatewayConfig(listen=listen)
    with pytest.raises(InvalidInput, match="token_ttl_s"):
        GatewayConfig(token_ttl_s=1)


def test_urls() -> None:
    assert GatewayConfig().base_url() == "http://127.0.0.1:7667"
    assert GatewayConfig(public_url="https://x/").base_url() == "https://x"
    assert GatewayConfig(listen="[::1]:80").address() == ("::1", 80)
