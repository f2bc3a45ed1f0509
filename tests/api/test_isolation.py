"""Project A learns nothing of project B: every operation of the OpenAPI document is walked."""

from __future__ import annotations

from typing import Any

import httpx

from tests.api.stack import BODY, Stack

ABSENT = "7d0f1c5e-0000-4000-8000-00000000dead"
LIMIT = {"bandwidth_limit": {"rate": "200Mbit/s"}}
INSPECT = {"inspection": {"origin": BODY["migration"]["origin"], "instance": "vm-01"}}
BODIES: dict[str, Any] = {
    "create_migration": BODY,
    "set_agent_bandwidth_limit": LIMIT,
    "set_link_bandwidth_limit": LIMIT,
    "set_job_bandwidth_limit": LIMIT,
    "create_secret": {"secret": {"name": "s", "payload": {}}},
    "create_inspection": INSPECT,
    "create_survey": {"survey": {"origin": BODY["migration"]["origin"]}},
    "act_on_migration": {"cancel": None},
    "act_on_migration_plural": {"verify": None},
}
NOT_OF_A_PROJECT = {"service_id", "platform", "type_number"}


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, found in document["paths"].items()
        for method, operation in found.items()
        if path.startswith("/v1/")
    ]


def fill(path: str, project_id: str, ids: dict[str, str]) -> str:
    path = path.replace("{project_id}", project_id)
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{platform}", "libvirt").replace("{type_number}", "16").replace("{service_id}", "c0")


def test_every_operation_hides_the_other_project(stack: Stack) -> None:
    with stack.client(stack.admin) as mine, stack.client(stack.other) as theirs:
        migration = theirs.post("/migrations", json=BODY).json()["migration"]["id"]
        stack.call(stack.mesh.move, migration, "COMPLETED")
        verification = theirs.post(f"/migrations/{migration}/actions", json={"verify": None}).json()["verification"][
            "id"
        ]
        inspection = theirs.post("/inspections", json=BODIES["create_inspection"]).json()["inspection"]["id"]
        survey = theirs.post("/surveys", json=BODIES["create_survey"]).json()["survey"]["id"]
        secret = theirs.post("/secrets", json=BODIES["create_secret"]).json()["secret"]["id"]
        assert theirs.put(f"/bandwidth-limits/job/{migration}", json=LIMIT).status_code == 200
        disk = theirs.get(f"/migrations/{migration}/manifests").json()["manifests"][0]["disk_id"]
        assert theirs.get(f"/migrations/{migration}/manifests/{disk}").status_code == 200
        real = {
            "migration_id": migration,
            "verification_id": verification,
            "inspection_id": inspection,
            "survey_id": survey,
            "secret_id": secret,
            "disk_id": disk,
        }
        absent = dict.fromkeys(real, ABSENT)
        walked = 0
        for method, path, operation in operations(httpx.get(f"{stack.url}/openapi.json").json()):
            body = BODIES.get(operation["operationId"])

            def ask(url: str, method: str = method, body: Any = body) -> httpx.Response:
                return mine.request(method, f"{stack.url}{url}", json=body)

            # in the other project's path: the same as a project that does not exist
            foreign = ask(fill(path, stack.other.project_id, real))
            nowhere = ask(fill(path, "f" * 32, absent))
            assert foreign.status_code == nowhere.status_code == 404, path
            assert foreign.content == nowhere.content, path
            if "_id}" in path.replace("{project_id}", "").replace("{service_id}", ""):
                # in the own project's path: a foreign id is answered as an absent one
                guessed = ask(fill(path, stack.admin.project_id, real))
                missing = ask(fill(path, stack.admin.project_id, absent))
                assert guessed.status_code == missing.status_code == 404, path
                hidden = guessed.text
                for name, value in real.items():
                    hidden = hidden.replace(value, absent[name])
                assert hidden == missing.text, path
            walked += 1
        assert walked >= 12
        assert migration not in mine.get("/migrations/detail").text
        assert migration not in mine.get("/bandwidth-limits").text
        assert migration in theirs.get("/bandwidth-limits").text
        assert mine.get(f"/migrations?marker={migration}").status_code == 404
        assert theirs.get(f"/migrations/{migration}").status_code == 200, "nothing was changed by asking"
        assert secret in theirs.get("/secrets").text


def test_every_operation_needs_a_token(stack: Stack) -> None:
    document = httpx.get(f"{stack.url}/openapi.json").json()
    for method, path, operation in operations(document):
        answer = httpx.request(method, stack.url + fill(path, stack.admin.project_id, {}))
        assert answer.status_code == 401, path
        assert operation["security"] == [{"token": []}], path
