"""Jobs with a real Keystone and Barbican: they outlive the token, wait for lost credentials, leave no trust."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.keystone_mesh import END, KeystoneMesh, keystone_mesh
from tests.integration.mesh_calls import Sites
from tests.lab.openstack_site import Account, Cloud

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

TRUSTS_GONE_S = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(identity_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeystoneMesh]:
    async with keystone_mesh(identity_cloud, tmp_path_factory.mktemp("keystone")) as mesh:
        yield mesh


def body(running: KeystoneMesh, who: Account, sites: Sites, **origin: Any) -> dict[str, Any]:
    """Origin by a secret, destination in the caller's cloud without any credentials."""
    place = running.store_secret(who, json.dumps({"path": str(sites.destination)}), "place")
    assert place
    origin = origin or {"secret_id": running.store_secret(who, json.dumps({"path": str(sites.origin)}))}
    return {
        "migration": {
            "origin": {"type": "image", "connection_info": origin},
            "destination": {"type": "trusting", "target_environment": {"network_map": {"VM Network": "x"}}},
            "instances": ["vm"],
            "skip_os_morphing": True,
            "replication_count": 1,
        }
    }


async def test_a_job_outlives_the_token_that_asked_for_it(running: KeystoneMesh, tmp_path: Path) -> None:
    sites, who = Sites(tmp_path), running.cloud.account("member", "creator")
    token = who.token()
    with running.client(who) as client:
        client.headers["X-Auth-Token"] = token
        answer = client.post("/migrations", json=body(running, who, sites))
        assert answer.status_code == 200, answer.text
        made = answer.json()["migration"]
    running.cloud.admin.session().delete(f"{running.cloud.auth_url}/auth/tokens", headers={"X-Subject-Token": token})
    ended = await running.wait(who, made["id"], lambda found: found["status"] in END)
    assert ended["status"] == "COMPLETED", ended["tasks"]
    assert ended["destination"]["connection_info"] == {}
    assert await verified(running, who, made["id"]) == "COMPLETED", "the trust of an ended job is renewed for it"
    content = (sites.origin / "disk.img").read_bytes()
    assert content in [path.read_bytes() for path in sites.destination.rglob("*") if path.is_file()]


async def verified(running: KeystoneMesh, who: Account, migration_id: str) -> str:
    """The status in which a verification of an ended job ends."""
    with running.client(who) as client:
        started = client.post(f"/migrations/{migration_id}/actions", json={"verify": None})
        assert started.status_code == 200, started.text
        path = f"/migrations/{migration_id}/verifications/{started.json()['verification']['id']}"
        deadline = time.monotonic() + 60
        while (status := client.get(path).json()["verification"]["status"]) == "RUNNING":
            assert time.monotonic() < deadline, "the verification does not end"
            await asyncio.sleep(0.2)
    return str(status)


async def test_lost_credentials_make_a_job_wait_and_new_ones_go_on(running: KeystoneMesh, tmp_path: Path) -> None:
    sites, who = Sites(tmp_path), running.cloud.account("member", "creator")
    before = set(await running.delegations.mine())
    with running.client(who) as client:
        made = client.post("/migrations", json=body(running, who, sites)).json()["migration"]
        (trust,) = set(await running.delegations.mine()) - before
        who.session().delete(f"{running.cloud.auth_url}/OS-TRUST/trusts/{trust}")
        waiting = await running.wait(who, made["id"], lambda found: found["waiting_for"] == "credentials")
        assert waiting["status"] == "RUNNING"
        (task,) = [task for task in waiting["tasks"] if task["status"] == "PENDING"]
        assert any("credentials" in event["message"] for event in task["events"]), task["events"]
        await asyncio.sleep(6)  # it is looked for new ones every 5 s, and nothing of that counts as an attempt
        still = client.get(f"/migrations/{made['id']}").json()["migration"]
        assert (still["status"], still["waiting_for"]) == ("RUNNING", "credentials")
        answer = client.post(f"/migrations/{made['id']}/actions", json={"renew_credentials": None})
        assert answer.status_code == 204, answer.text
    ended = await running.wait(who, made["id"], lambda found: found["status"] in END)
    assert (ended["status"], ended["waiting_for"]) == ("COMPLETED", None)


async def test_a_waiting_job_can_be_cancelled_and_is_nobody_elses_to_renew(
    running: KeystoneMesh, tmp_path: Path
) -> None:
    sites, who = Sites(tmp_path), running.cloud.account("member", "creator")
    other = running.cloud.account("member")
    before = set(await running.delegations.mine())
    with running.client(who) as client, running.client(other) as foreign:
        made = client.post("/migrations", json=body(running, who, sites)).json()["migration"]
        (trust,) = set(await running.delegations.mine()) - before
        who.session().delete(f"{running.cloud.auth_url}/OS-TRUST/trusts/{trust}")
        await running.wait(who, made["id"], lambda found: found["waiting_for"] == "credentials")
        refused = foreign.post(f"/migrations/{made['id']}/actions", json={"renew_credentials": None})
        assert refused.status_code == 404, refused.text
        assert client.post(f"/migrations/{made['id']}/actions", json={"cancel": None}).status_code == 204
    ended = await running.wait(who, made["id"], lambda found: found["status"] in END)
    assert ended["status"] == "CANCELED"


async def test_what_barbican_says_is_told_apart(running: KeystoneMesh, tmp_path: Path) -> None:
    sites, who = Sites(tmp_path), running.cloud.account("member", "creator")
    right = running.store_secret(who, json.dumps({"path": str(sites.origin)}))
    no_json = running.store_secret(who, "correct horse battery")
    no_object = running.store_secret(who, json.dumps(["correct horse battery"]))
    absent = "99999999-9999-4999-8999-999999999999"
    powerless = running.cloud.account("member", project_id=who.project_id)
    elsewhere = f"http://198.51.100.1:9311/v1/secrets/{right}"

    made = []

    def told(account: Account, **origin: Any) -> tuple[int, str]:
        with running.client(account) as client:
            answer = client.post("/migrations", json=body(running, who, sites, **origin))
        if answer.status_code == 200:
            made.append(answer.json()["migration"]["id"])
        return answer.status_code, answer.text

    assert told(who, secret_id=right)[0] == 200
    # the host of a reference is never asked: this one does not exist
    assert told(who, secret_ref=elsewhere)[0] == 200
    for account, origin, code, words in (
        (who, {"secret_id": absent}, 404, "NotFound: Barbican has no secret"),
        (powerless, {"secret_id": right}, 403, "Denied: secret"),
        (who, {"secret_id": no_json}, 400, "does not hold JSON"),
        (who, {"secret_id": no_object}, 400, "does not hold a JSON object"),
        (who, {"secret_ref": "file:///etc/passwd"}, 400, "a secret is named by its id"),
        (who, {"secret_ref": absent, "more": 1}, 400, "the only member"),
    ):
        status, text = told(account, **origin)
        assert (status, words in text) == (code, True), text
        assert "correct horse" not in text
    for one in made:  # both make the same machine, so only one of them need succeed; they end before their folders go
        await running.wait(who, one, lambda found: found["status"] in END)


async def test_no_trust_is_left(running: KeystoneMesh) -> None:
    """Also none of requests that were refused; every job of this file has ended."""
    deadline = time.monotonic() + TRUSTS_GONE_S
    while left := await running.delegations.mine():
        assert time.monotonic() < deadline, left
        await asyncio.sleep(1)
