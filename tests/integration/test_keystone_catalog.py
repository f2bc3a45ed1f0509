"""``coriolis catalog`` against a real Keystone, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from keystoneauth1.exceptions import EndpointNotFound

from coriolis.cli.exits import Exit
from tests.lab.openstack_site import Account, Cloud

pytestmark = pytest.mark.lab

URL = "http://gateway.example:7667"
FULL = f"{URL}/v1/%(project_id)s"


def coriolis(who: Account, *arguments: str, code: int = Exit.OK) -> str:
    variables = {
        "OS_AUTH_URL": who.auth_url,
        "OS_USERNAME": who.user,
        "OS_PASSWORD": who.password,
        "OS_PROJECT_NAME": who.project,
    }
    command = [sys.executable, "-m", "coriolis.cli.main", "catalog", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == Exit.OK else done.stderr


def actions(said: str) -> list[tuple[str, str]]:
    return [(step["action"], step["what"]) for step in json.loads(said)["steps"]]


def test_register_is_idempotent_and_clients_find_the_gateway(identity_cloud: Cloud) -> None:
    admin, tenant = identity_cloud.admin, identity_cloud.demo
    kinds = ["service", "public", "internal", "admin"]

    def found() -> str | None:
        try:
            return str(tenant.session().get_endpoint(service_type="migration", interface="public"))
        except EndpointNotFound:
            return None

    assert actions(coriolis(admin, "register", URL, "--dry-run", "-o", "json")) == [("create", kind) for kind in kinds]
    assert found() is None
    assert "Nothing was changed" in coriolis(admin, "register", URL, "--dry-run")
    try:
        assert actions(coriolis(admin, "register", URL, "-o", "json")) == [("create", kind) for kind in kinds]
        assert found() == f"{URL}/v1/{tenant.project_id}"
        assert actions(coriolis(admin, "register", URL, "-o", "json")) == [("keep", kind) for kind in kinds]
        moved = actions(coriolis(admin, "register", f"{URL}0", "-o", "json"))
        assert moved == [("keep", "service")] + [("update", kind) for kind in kinds[1:]]
        assert found() == f"{URL}0/v1/{tenant.project_id}"
    finally:
        gone = actions(coriolis(admin, "unregister", "-o", "json"))
    assert sorted(gone) == sorted(("delete", kind) for kind in kinds)
    assert found() is None
    assert actions(coriolis(admin, "unregister", "-o", "json")) == []


def test_a_tenant_may_not_and_a_wrong_url_is_no_url(identity_cloud: Cloud) -> None:
    coriolis(identity_cloud.demo, "register", URL, code=Exit.NOT_ALLOWED)
    assert "without a path" in coriolis(identity_cloud.admin, "register", FULL, code=Exit.USAGE)
    assert "must be one of: RegionOne" in coriolis(
        identity_cloud.admin, "register", URL, "--region", "Nowhere", code=Exit.USAGE
    )
