"""The published description: its snapshot, its policy rules, and fuzzing along it.

After a wanted change: ``python -m tests.api.test_openapi`` writes docs/openapi.json anew.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis import checks as schemathesis_checks
from schemathesis.specs.openapi import checks as openapi_checks

from gateway.app import build_app
from gateway.auth import Permit
from gateway.embedded_identity import EmbeddedIdentity
from gateway.policy import RULES
from gateway.settings import GatewayConfig
from gateway.tokens import KEY_BYTES, TokenSigner
from gateway.users_file import Users, save_users
from tests.api.stack import BODY, Stack

SNAPSHOT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
EXAMPLES_PER_OPERATION = 20


def make_app(directory: Path) -> FastAPI:
    users = directory / "users.json"
    save_users(users, Users())
    identity = EmbeddedIdentity(users, TokenSigner(b"0" * KEY_BYTES), 3600)
    return build_app(GatewayConfig(), None, identity)  # type: ignore[arg-type]  # no request is served


def document(directory: Path) -> str:
    return json.dumps(make_app(directory).openapi(), indent=1, sort_keys=True) + "\n"


def test_the_snapshot_is_current(tmp_path: Path) -> None:
    assert SNAPSHOT.read_text() == document(tmp_path), "run python -m tests.api.test_openapi and look at the difference"


def routes(router: Any) -> list[APIRoute]:
    return [route for route in router.routes if isinstance(route, APIRoute)]


def test_every_route_of_a_project_has_a_policy_rule(tmp_path: Path) -> None:
    from gateway.routes import events, inspections, limits, links, manifests, migrations, secrets, services, surveys

    used = set()
    found = (events, inspections, migrations, manifests, services, secrets, surveys, limits, links)
    for router in (module.router for module in found):
        for route in routes(router):
            rules = [one.call.rule for one in route.dependant.dependencies if isinstance(one.call, Permit)]
            assert len(rules) == 1, route.path
            used.update(rules)
    # demanded inside of the action route
    used |= {f"migration:migrations:{action}" for action in ("cancel", "verify", "renew_credentials")} | {
        limits.SEES_MESH
    }
    assert used == set(RULES)


OPERATIONS = [
    (path, method)
    for path, operations in (json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {"paths": {}})["paths"].items()
    for method in operations
    if not path.endswith("/events")  # a stream has no answer to wait for; test_events has it
]


@pytest.fixture(scope="session")
def described(stack: Stack) -> Any:
    return schemathesis.openapi.from_url(f"{stack.url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_fuzzed(described: Any, stack: Stack, path: str, method: str, mode: GenerationMode) -> None:
    """Documented codes and forms only, and never a fault of ours."""
    strategy = described[path][method].as_strategy(generation_mode=mode)

    @given(case=strategy)
    @settings(
        max_examples=EXAMPLES_PER_OPERATION,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def fuzz(case: Any) -> None:
        check(case, stack)

    try:
        fuzz()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "nothing about this operation can be invalid"


def check(case: Any, stack: Stack) -> None:
    if "project_id" in case.path_parameters:
        case.path_parameters["project_id"] = stack.admin.project_id
    if "migration_id" in case.path_parameters and random.Random(repr(case.body)).random() < 0.5:
        case.path_parameters["migration_id"] = known_migration(stack)
    case.headers = {**(case.headers or {}), "X-Auth-Token": token(stack)}
    if case.method == "DELETE" and case.path == "/v3/auth/tokens":
        case.headers["X-Subject-Token"] = "none"  # or the fuzzer would log itself out
    response = case.call(timeout=30)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.json()["error"]["code"] == response.status_code
    case.validate_response(
        response,
        checks=[
            openapi_checks.status_code_conformance,
            openapi_checks.content_type_conformance,
            openapi_checks.response_schema_conformance,
            schemathesis_checks.not_a_server_error,
        ],
    )


TOKENS: dict[str, str] = {}


def token(stack: Stack) -> str:
    """One login for all: each hashes a password, which took most of the fuzzing's time."""
    if "token" not in TOKENS:
        TOKENS["token"] = stack.token(stack.admin)
    return TOKENS["token"]


def known_migration(stack: Stack) -> str:
    found = [one.id for one in stack.mesh.migrations.values() if one.project_id == stack.admin.project_id]
    if not found:
        with stack.client(stack.admin) as client:
            return str(client.post("/migrations", json=BODY).json()["migration"]["id"])
    return found[0]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        SNAPSHOT.write_text(document(Path(scratch)))
