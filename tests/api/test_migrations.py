"""The migrations resource over HTTP: codes, bodies, bad input, changes of leaders."""

from __future__ import annotations

import copy
import json
import re
import threading
from typing import Any

import httpx
import pytest

from coriolis.errors import Unavailable
from gateway.answers import MigrationAnswer, MigrationsAnswer, ServicesAnswer
from gateway.schemas import MAX_INSTANCES
from tests.api.stack import BODY, Stack

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")


def create(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    body = copy.deepcopy(BODY)
    body["migration"].update(changes)
    answer = client.post("/migrations", json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()["migration"]
    return made


def test_life_of_a_migration(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        answer = client.post("/migrations", json=BODY)
        assert answer.status_code == 200
        assert re.fullmatch(r"req-[0-9a-f-]{36}", answer.headers["x-compute-request-id"])
        assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]
        made = MigrationAnswer.model_validate(answer.json()).migration
        assert STAMP.fullmatch(made.created_at)
        assert made.updated_at is None
        assert made.origin.connection_info["password"] == "***"
        assert made.destination.target_environment["network_map"] == {"VM Network": "default"}
        first, second = made.tasks
        assert (first.depends_on, first.process_id, second.depends_on, second.process_id) == (
            None,
            4711,
            [first.id],
            None,
        )
        assert second.events[0].task_id == second.id
        assert second.progress_updates[0].total_steps == 1024

        assert client.get(f"/migrations/{made.id}").json() == answer.json()
        assert client.get(f"/migrations/{made.id}.json").json() == answer.json()
        assert client.delete(f"/migrations/{made.id}").status_code == 409
        cancelled = client.post(f"/migrations/{made.id}/actions", json={"cancel": None})
        assert (cancelled.status_code, cancelled.content) == (204, b"")
        assert client.get(f"/migrations/{made.id}").json()["migration"]["status"] == "CANCELED"
        again = client.post(f"/migrations/{made.id}/action", json={"cancel": {"force": True}})
        assert (again.status_code, again.json()["error"]["fault"]) == (409, "conflictingRequest")
        gone = client.delete(f"/migrations/{made.id}")
        assert (gone.status_code, gone.content) == (204, b"")
        missing = client.get(f"/migrations/{made.id}")
        assert missing.status_code == 404
        assert missing.json() == {
            "error": {
                "fault": "itemNotFound",
                "code": 404,
                "message": f'NotFound: Migration with ID "{made.id}" not found.',
            }
        }


def test_lists_page_and_filter(stack: Stack) -> None:
    with stack.client(stack.other) as client:
        ids = [create(client)["id"] for _ in range(25)][::-1]
        plain = MigrationsAnswer.model_validate(client.get("/migrations").json())
        assert [one.id for one in plain.migrations][:25] == ids
        assert all(one.tasks == [] for one in plain.migrations)
        detailed = client.get("/migrations/detail").json()["migrations"]
        assert [one["id"] for one in detailed][:25] == ids
        assert all(len(one["tasks"]) == 2 for one in detailed)
        seen: list[str] = []
        url = "/migrations?limit=10"
        while url:
            page = client.get(url).json()
            seen += [one["id"] for one in page["migrations"]]
            url = page.get("migrations_links", [{"href": ""}])[0]["href"]
        assert seen[:25] == ids
        completed = client.get("/migrations?status=COMPLETED").json()["migrations"]
        assert not {one["id"] for one in completed} & set(ids)
        assert client.get("/migrations?status=DEADLOCKED").json() == {"migrations": []}
        assert client.get("/migrations?status=RUNNING&sort_key=created_at&sort_dir=desc&limit=2").status_code == 200
        for wrong in ("limit=0", "limit=x", "marker=1", "status=BROKEN", "sort_key=notes", "sort_dir=asc"):
            answer = client.get(f"/migrations?{wrong}")
            assert answer.status_code == 400, wrong
            assert wrong.split("=")[0] in answer.json()["error"]["message"]


BAD: list[tuple[str, Any, str]] = [
    ("origin.user", "x", "migration.origin.user: unknown field"),
    ("colour", "red", "migration.colour: unknown field"),
    ("destination.target_environment", [], "migration.destination.target_environment"),
    ("destination.target_environment", {"network_map": {"a": 1}}, "network_map"),
    ("instances", [], "migration.instances"),
    ("instances", ["a", "a"], "twice"),
    ("instances", [f"vm-{n}" for n in range(MAX_INSTANCES + 1)], "migration.instances"),
    ("instances", ["a\n"], "migration.instances.0"),
    ("replication_count", 11, "migration.replication_count"),
    ("replication_count", "2", "migration.replication_count"),
    ("skip_os_morphing", "yes", "migration.skip_os_morphing"),
    ("origin.type", "cloud-of-smoke", "origin.type"),
    ("origin.connection_info", "qemu:///system", "migration.origin.connection_info"),
]


@pytest.mark.parametrize(("path", "value", "named"), BAD)
def test_bad_fields_are_named_and_values_not_repeated(stack: Stack, path: str, value: Any, named: str) -> None:
    body = copy.deepcopy(BODY)
    target = body["migration"]
    *parents, last = path.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = value
    with stack.client(stack.admin) as client:
        answer = client.post("/migrations", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["fault"], error["code"]) == ("badRequest", 400)
    assert named in error["message"]
    assert "qemu:///system" not in error["message"]


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"{}", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"migration": 1}', "application/json", 400),
        (b'{"migration": NaN}', "application/json", 400),
        (b'"\\ud800"', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"migration":' * 40 + b"1" + b"}" * 40, "application/json", 400),
        (b"<xml/>", "text/xml", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"", "application/json", 400),
        (b" " * ((1 << 20) + 1), "application/json", 413),
        (json.dumps(BODY).encode(), None, 400),
    ],
)
def test_bad_bodies(stack: Stack, content: bytes, content_type: str | None, code: int) -> None:
    with stack.client(stack.admin) as client:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = client.post("/migrations", content=content, headers=headers)
        chunked = client.post("/migrations", content=iter([content]), headers=headers)
    assert (answer.status_code, chunked.status_code) == (code, code)
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "Malformed request body"),
        ({"cancel": None, "verify": None}, "Malformed request body"),
        ({"explode": None}, "There is no such action: explode"),
        ({"cancel": {"force": "yes"}}, "cancel.force"),
        ({"cancel": {"strength": 1}}, "cancel.strength: unknown field"),
        ({"verify": {"force": True}}, "verify"),
    ],
)
def test_bad_actions(stack: Stack, body: Any, message: str) -> None:
    with stack.client(stack.admin) as client:
        made = create(client)
        answer = client.post(f"/migrations/{made['id']}/actions", json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_request_id_makes_one_migration(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        assert create(client, request_id="wave-1")["id"] == create(client, request_id="wave-1")["id"]
        assert create(client)["id"] != create(client)["id"]


def test_verification(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        made = create(client)
        assert client.post(f"/migrations/{made['id']}/actions", json={"verify": None}).status_code == 409
        stack.call(stack.mesh.move, made["id"], "COMPLETED")
        started = client.post(f"/migrations/{made['id']}/actions", json={"verify": None})
        assert started.status_code == 200
        verification = started.json()["verification"]
        found = client.get(f"/migrations/{made['id']}/verifications/{verification['id']}").json()["verification"]
        assert found["status"] == "COMPLETED"
        assert found["disks"][0]["first_difference"] is None


def test_user_scripts_are_passed_on_and_shown(stack: Stack) -> None:
    scripts = {"global": {"linux": "#!/bin/sh\ntrue\n"}, "instances": {}}
    with stack.client(stack.admin) as client:
        made = create(client, user_scripts=scripts)
        assert made["user_scripts"] == scripts
        assert client.get(f"/migrations/{made['id']}").json()["migration"]["user_scripts"] == scripts
        assert create(client)["user_scripts"] == {}


def test_an_inspection(stack: Stack) -> None:
    body = {"inspection": {"origin": BODY["migration"]["origin"], "instance": "vm-01", "target_platform": "openstack"}}
    with stack.client(stack.admin) as client:
        started = client.post("/inspections", json=body)
        assert started.status_code == 200
        assert (started.json()["inspection"]["status"], started.json()["inspection"]["system"]) == ("RUNNING", None)
        found = client.get(f"/inspections/{started.json()['inspection']['id']}").json()["inspection"]
        assert (found["status"], found["system"]["title"], found["convertible"]) == ("COMPLETED", "Debian 12", True)
        for wrong in ({}, {**body["inspection"], "instance": ""}, {**body["inspection"], "platform": "kvm"}):
            assert client.post("/inspections", json={"inspection": wrong}).status_code == 400


def test_a_sampled_verification(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        made = create(client)
        stack.call(stack.mesh.move, made["id"], "COMPLETED")
        url = f"/migrations/{made['id']}"
        body = {"verify": {"sample": "5%", "seed": 42}}
        started = client.post(f"{url}/actions", json=body).json()["verification"]
        found = client.get(f"{url}/verifications/{started['id']}").json()["verification"]
        assert (found["sample"], found["seed"]) == ("5%", 42)
        assert found["disks"][0]["checked_cells"] < found["disks"][0]["cells"]
        whole = client.post(f"{url}/actions", json={"verify": None}).json()["verification"]
        found = client.get(f"{url}/verifications/{whole['id']}").json()["verification"]
        assert (found["sample"], found["seed"]) == (None, None)
        for wrong in ({"sample": "0%"}, {"sample": 5}, {"seed": -1}, {"seed": 1 << 53}, {"cells": 3}):
            answer = client.post(f"{url}/actions", json={"verify": wrong})
            assert answer.status_code == 400, wrong


def test_manifests(stack: Stack) -> None:
    with stack.client(stack.admin) as client, stack.client(stack.reader) as reader:
        made = create(client)
        url = f"/migrations/{made['id']}/manifests"
        assert client.get(url).json() == {"manifests": []}
        assert client.get(f"{url}/vda").status_code == 404
        stack.call(stack.mesh.move, made["id"], "COMPLETED")
        [listed] = reader.get(url).json()["manifests"]
        assert listed["deployed"]["root"] != listed["root"]
        assert "statements" not in listed
        shown = reader.get(f"{url}/vda?instance=vm-01").json()["manifest"]
        assert {name: shown[name] for name in listed if name not in ("sealed_at", "deployed")} == {
            name: listed[name] for name in listed if name not in ("sealed_at", "deployed")
        }
        assert shown["leaves"] == ["00" * 32]
        assert client.get(f"{url}/vda?instance=vm-02").status_code == 404
        assert client.get(f"{url}/a/b").status_code == 404


def test_nothing_else_is_served(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        for method, path, code in [
            ("PUT", "/migrations", 405),
            ("GET", "/migrations/x/actions", 405),
            ("GET", "/unknown", 404),
            ("GET", "/migrations/", 404),
        ]:
            answer = client.request(method, path)
            assert answer.status_code == code, path
            assert answer.json()["error"]["code"] == code


def test_a_change_of_leaders_is_followed(stack: Stack) -> None:
    first, second = stack.coordinators
    with stack.client(stack.admin) as client:
        made = create(client)
        stack.call(stack.mesh.lead, second)
        assert client.get(f"/migrations/{made['id']}").status_code == 200
        stack.call(stack.mesh.lead, None)
        timer = threading.Timer(0.7, stack.call, (stack.mesh.lead, first))
        timer.start()
        assert client.post("/migrations", json=BODY).status_code == 200, "waits for the election"
        timer.join()


def test_creation_is_repeated_and_made_once(stack: Stack) -> None:
    leader = stack.mesh.leader
    assert leader is not None
    with stack.client(stack.admin) as client:
        before = len(stack.mesh.migrations)
        leader.fail_next.append(Unavailable("the store does not answer"))
        assert client.post("/migrations", json=BODY).status_code == 200
        assert len(stack.mesh.migrations) == before + 1
        leader.fail_next.append(Unavailable("the store does not answer"))
        lost = client.post("/secrets", json={"secret": {"name": "s", "payload": {}}})
        assert lost.status_code == 503
        assert "outcome is unknown" in lost.json()["error"]["message"]


def test_no_leader_is_503_in_bounded_time(stack: Stack) -> None:
    first = stack.coordinators[0]
    stack.call(stack.mesh.lead, None)
    try:
        with stack.client(stack.admin) as client:
            answer = client.get("/migrations")
            assert answer.status_code == 503
            assert answer.json()["error"]["fault"] == "serviceUnavailable"
            assert httpx.get(f"{stack.url}/readyz").status_code == 503
            assert httpx.get(f"{stack.url}/healthz").status_code == 200
    finally:
        stack.call(stack.mesh.lead, first)
    assert httpx.get(f"{stack.url}/readyz").text == "ready\n"


def test_services_and_providers(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        services = ServicesAnswer.model_validate(client.get("/services").json()).services
        assert [(one.id, one.binary, one.status) for one in services] == [
            ("c0", "coriolis-coordinator", "UP"),
            ("agent-a", "coriolis-worker", "UP"),
        ], "an agent of another project is not shown"
        assert client.get("/services/agent-a").json()["service"]["specs"]["site"] == "a"
        assert client.get("/services/agent-b").status_code == 404
        assert client.get("/providers").json()["providers"]["libvirt"] == {"types": [4, 8, 16, 64]}
        assert client.get("/providers/libvirt/schemas/16").json() == {
            "schemas": {"connection_info_schema": {"type": "object"}}
        }
        assert client.get("/providers/smoke/schemas/16").status_code == 404


def test_secrets_never_come_back(stack: Stack) -> None:
    with stack.client(stack.admin) as client, stack.client(stack.other) as other:
        body = {"secret": {"name": "lab", "payload": {"password": "open sesame"}}}
        made = client.post("/secrets", json=body)
        assert made.status_code == 200
        secret = made.json()["secret"]
        assert sorted(secret) == ["created_at", "id", "name"]
        assert secret in client.get("/secrets").json()["secrets"]
        assert "sesame" not in made.text + client.get("/secrets").text
        assert secret not in other.get("/secrets").json()["secrets"]
        assert other.delete(f"/secrets/{secret['id']}").status_code == 404
        assert client.delete(f"/secrets/{secret['id']}").status_code == 204
        large = {"secret": {"name": "lab", "payload": {"password": "x" * 65536}}}
        assert "secret.payload" in client.post("/secrets", json=large).json()["error"]["message"]


def test_metrics_count_by_route(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        client.get("/migrations/absent")
    text = httpx.get(f"{stack.url}/metrics").text
    route = "/v1/{project_id}/migrations/{migration_id}"
    assert f'coriolis_gateway_requests_total{{code="404",method="GET",route="{route}"}}' in text
    assert "absent" not in text


def test_credentials_are_renewed_only_with_keystone(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        made = client.post("/migrations", json=BODY).json()["migration"]
        assert made["waiting_for"] is None
        refused = client.post(f"/migrations/{made['id']}/actions", json={"renew_credentials": None})
        assert (refused.status_code, "only with Keystone" in refused.text) == (405, True)
        absent = client.post(
            "/migrations/11111111-1111-4111-8111-111111111111/actions", json={"renew_credentials": None}
        )
        assert absent.status_code == 404
    with stack.client(stack.reader) as client:
        refused = client.post(f"/migrations/{made['id']}/actions", json={"renew_credentials": None})
        assert (refused.status_code, "migration:migrations:renew_credentials" in refused.text) == (403, True)
