"""Logging in as Keystone's own client does, and what attacks on tokens get."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from keystoneauth1 import session as keystone
from keystoneauth1.exceptions import Unauthorized
from keystoneauth1.identity import generic, v3

from gateway.users_file import add_user
from tests.api.stack import Stack

PLUGINS = [(v3.Password, "/v3"), (v3.Password, "/v3/"), (generic.Password, "/v3"), (generic.Password, "")]


@pytest.mark.parametrize(("plugin", "suffix"), PLUGINS)
def test_keystoneauth_logs_in_and_finds_the_endpoint(stack: Stack, plugin: Any, suffix: str) -> None:
    who = stack.admin
    session = keystone.Session(auth=plugin(**auth_arguments(stack, suffix)))
    assert session.get_project_id() == who.project_id
    for interface in ("public", "internal", "admin"):
        assert session.get_endpoint(service_type="migration", interface=interface) == f"{stack.url}/v1/{who.project_id}"
    assert session.get("/migrations", endpoint_filter={"service_type": "migration"}).status_code == 200
    with pytest.raises(Unauthorized):
        keystone.Session(auth=plugin(**{**auth_arguments(stack, suffix), "password": "wrong"})).get_token()


def auth_arguments(stack: Stack, suffix: str) -> dict[str, str]:
    who = stack.admin
    return {
        "auth_url": stack.url + suffix,
        "username": who.username,
        "password": who.password,
        "project_name": who.project_name,
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }


def test_rescoping_by_token(stack: Stack) -> None:
    add_user(stack.tls / "users.json", "both", "admin", ["member"], password="p")
    both = add_user(stack.tls / "users.json", "both", "second", ["reader"], password="p")
    unscoped = stack.token(both, scoped=False)
    listed = httpx.get(f"{stack.url}/v3/auth/projects", headers={"X-Auth-Token": unscoped}).json()["projects"]
    assert {project["name"] for project in listed} == {"admin", "second"}
    refused = httpx.get(f"{stack.url}/v1/{both.project_id}/migrations", headers={"X-Auth-Token": unscoped})
    assert refused.status_code == 401
    for project in listed:
        auth = v3.Token(f"{stack.url}/v3", unscoped, project_id=project["id"])
        assert keystone.Session(auth=auth).get("/migrations", endpoint_filter={"service_type": "migration"}).ok
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": unscoped}}}}
    body["auth"]["scope"] = {"project": {"id": stack.other.project_id}}  # type: ignore[dict-item]
    answer = httpx.post(f"{stack.url}/v3/auth/tokens", json=body)
    first = httpx.get(
        f"{stack.url}/v3/auth/tokens", headers={"X-Auth-Token": unscoped, "X-Subject-Token": unscoped}
    ).json()["token"]
    assert answer.json()["token"]["expires_at"] == first["expires_at"], "rescoping does not prolong"
    headers = {"X-Auth-Token": unscoped, "X-Subject-Token": unscoped}
    assert httpx.delete(f"{stack.url}/v3/auth/tokens", headers=headers).status_code == 204
    rescoped = {"X-Auth-Token": answer.headers["X-Subject-Token"]}
    assert httpx.get(f"{stack.url}/v1/{both.project_id}/migrations", headers=rescoped).status_code == 401


def test_validate_check_revoke(stack: Stack) -> None:
    url = f"{stack.url}/v3/auth/tokens"
    token, other = stack.token(stack.admin), stack.token(stack.reader)
    shown = httpx.get(url, headers={"X-Auth-Token": token, "X-Subject-Token": other})
    assert shown.status_code == 200, "an administrator may look"
    assert [role["name"] for role in shown.json()["token"]["roles"]] == ["reader"]
    assert httpx.get(url, headers={"X-Auth-Token": other, "X-Subject-Token": token}).status_code == 404
    assert httpx.head(url, headers={"X-Auth-Token": other, "X-Subject-Token": other}).status_code == 200
    assert httpx.get(url, headers={"X-Subject-Token": token}).status_code == 401
    assert httpx.get(url, headers={"X-Auth-Token": token}).status_code == 404
    assert httpx.delete(url, headers={"X-Auth-Token": other, "X-Subject-Token": other}).status_code == 204
    assert httpx.head(url, headers={"X-Auth-Token": other, "X-Subject-Token": other}).status_code == 401


def attacks(stack: Stack) -> Iterator[tuple[str, str]]:
    token = stack.token(stack.admin)
    version, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "expires_at": 1 << 40}).encode()).decode().rstrip("=")
    yield "longer life", f"{version}.{forged}.{signature}"
    yield "no signature", f"{version}.{payload}."
    yield "other version", f"c2.{payload}.{signature}"
    yield "one bit", token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    yield "empty", ""
    yield "16 KiB", token + "A" * 16_384
    yield "60 KiB", "A" * 60_000
    yield "controls", "\x01\x02"
    yield "dots", "." * 2000


def test_token_attacks_get_401(stack: Stack) -> None:
    for name, token in attacks(stack):
        answer = httpx.get(f"{stack.url}/v1/{stack.admin.project_id}/migrations", headers={"X-Auth-Token": token})
        assert answer.status_code == 401 or (name == "controls" and answer.status_code == 400), name
        if answer.status_code == 401:
            assert answer.json()["error"]["title"] == "Unauthorized"
            assert answer.headers["WWW-Authenticate"].startswith("Keystone uri=")
    # more than 64 KiB of headers never becomes a request
    answer = httpx.get(f"{stack.url}/v1/{stack.admin.project_id}/migrations", headers={"X-Auth-Token": "A" * 70_000})
    assert answer.status_code in (400, 401, 431)


def test_identity_headers_from_outside_are_dropped(stack: Stack) -> None:
    forged = {
        "X-Project-Id": stack.other.project_id,
        "X-Tenant-Id": stack.other.project_id,
        "X-Roles": "admin",
        "X-Identity-Status": "Confirmed",
        "X-User-Id": "0" * 32,
    }
    url = f"{stack.url}/v1/{stack.other.project_id}/migrations"
    assert httpx.get(url, headers=forged).status_code == 401
    with stack.client(stack.reader, **forged) as client:
        assert client.get(url).status_code == 404
        denied = client.post("/secrets", json={"secret": {"name": "s", "payload": {}}})
        assert (denied.status_code, denied.json()["error"]["fault"]) == (403, "forbidden")


def test_a_removed_role_and_a_new_password_end_tokens(stack: Stack) -> None:
    path = stack.tls / "users.json"
    gone = add_user(path, "leaver", "admin", ["member"], password="first")
    with stack.client(gone) as client:
        assert client.get("/migrations").status_code == 200
        add_user(path, "leaver", "admin", ["member"], password="second")
        assert client.get("/migrations").status_code == 401


def test_brute_force_is_slowed_per_user(stack: Stack) -> None:
    def attempt(name: str) -> httpx.Response:
        user = {"name": name, "domain": {"id": "default"}, "password": "guess"}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
        return httpx.post(f"{stack.url}/v3/auth/tokens", json=body)

    codes = [attempt("nobody-of-that-name").status_code for _ in range(12)]
    assert codes == [401] * 10 + [429] * 2
    assert "Retry-After" in attempt("nobody-of-that-name").headers
    assert attempt("someone-else").status_code == 401


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({}, 400),
        ({"identity": {"methods": ["saml2"]}}, 400),
        ({"identity": {"methods": ["password"]}}, 400),
        ({"identity": {"methods": ["password"], "password": {"user": {"password": "x"}}}}, 400),
        ({"identity": {"methods": ["token"], "token": {"id": "x"}}}, 401),
        ({"identity": {"methods": ["password"], "password": {"user": {"name": "admin", "password": "x\u0000"}}}}, 401),
        (
            {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": "admin", "domain": {"name": "Other"}, "password": "x"}},
                }
            },
            401,
        ),
    ],
)
def test_malformed_logins(stack: Stack, auth: dict[str, Any], code: int) -> None:
    answer = httpx.post(f"{stack.url}/v3/auth/tokens", json={"auth": auth})
    assert answer.status_code == code, answer.text


def test_the_bare_catalog_url_is_404_without_a_token(stack: Stack) -> None:
    assert httpx.get(f"{stack.url}/v1/{stack.admin.project_id}").status_code == 404
