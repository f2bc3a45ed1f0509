"""Project B learns nothing of project A, not even by a clock: the gateway in front of a real Keystone.

Every operation of the OpenAPI document is asked for by B with A's ids and with ids that nobody has, in turns. Status
and body are the same, and so is the time: the median of the ratios of neighbouring answers lies within ±20%.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.api.test_isolation import BODIES, operations
from tests.integration.keystone_mesh import END, KeystoneMesh, keystone_mesh
from tests.integration.mesh_calls import Sites
from tests.lab.openstack_site import Account, Cloud

pytestmark = [pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]

TOLERANCE = 0.2
PAIRS_A_ROUND = 30
MAX_PAIRS = 300
CERTAINTY = 2.58
"""Standard deviations: the median is where it is said to be in 99 of 100 cases."""
ABSENT = "7d0f1c5e-0000-4000-8000-00000000dead"
NOWHERE = "f" * 32
OF_THE_MESH = {"platform": "image", "type_number": "16", "service_id": "site-a", "agent": "site-a"}
OF_THE_MESH |= {"origin_site": "site-a", "destination_site": "site-b"}
ACTIONS: tuple[dict[str, Any], ...] = ({"cancel": None}, {"verify": None}, {"renew_credentials": None})


@dataclass(frozen=True)
class Question:
    """One request in two forms, for what A has and for what nobody has."""

    name: str
    method: str
    foreign: str
    absent: str
    body: Any


def questions(document: dict[str, Any], mine: str, theirs: str, real: dict[str, str]) -> Iterator[Question]:
    """KeyError for a parameter that nobody here knows: then it has to be decided whether it is a project's."""
    nobodys = {name: ABSENT if name != "disk_id" else value for name, value in real.items()}
    for method, path, operation in operations(document):
        name = operation["operationId"]
        bodies = ACTIONS if name.startswith("act_on_migration") else (BODIES.get(name),)
        parameters = set(re.findall(r"{(\w+)}", path)) - {"project_id"}
        own, other = ({**OF_THE_MESH, **ids} for ids in (real, nobodys))
        query = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
        for body in bodies:
            foreign, absent = ({one: ids[one] for one in parameters} for ids in (own, other))
            yield Question(
                f"{name} in A's path",
                method,
                path.format(project_id=theirs, **foreign),
                path.format(project_id=NOWHERE, **foreign),
                body,
            )
            if parameters & set(real):
                forms = (path.format(project_id=mine, **ids) for ids in (foreign, absent))
                yield Question(f"{name} {body or ''} with A's ids", method, *forms, body)
            if "marker" in query:
                plain = path.format(project_id=mine, **foreign)
                forms = (f"{plain}?marker={ids['migration_id']}" for ids in (own, other))
                yield Question(f"{name} after A's", method, *forms, body)


def interval(ratios: list[float]) -> tuple[float, float]:
    """Where their median lies, by order statistics: no assumption on how the noise is distributed."""
    ordered, half = sorted(ratios), CERTAINTY * math.sqrt(len(ratios)) / 2
    first = max(0, math.floor(len(ordered) / 2 - half))
    last = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return ordered[first], ordered[last]


def verdict(ratios: list[float]) -> bool | None:
    """Whether the times are the same; None while the noise is too high to tell and more can be asked."""
    low, high = interval(ratios)
    if low >= 1 - TOLERANCE and high <= 1 + TOLERANCE:
        return True
    if high < 1 - TOLERANCE or low > 1 + TOLERANCE:
        return False
    if len(ratios) < MAX_PAIRS:
        return None
    return abs(statistics.median(ratios) - 1) <= TOLERANCE


@pytest.mark.parametrize(
    ("shift", "noise", "same"), [(1.0, 0.1, True), (1.0, 0.6, True), (1.35, 0.1, False), (0.7, 0.5, False)]
)
async def test_the_measure_finds_a_difference_through_noise(shift: float, noise: float, same: bool) -> None:
    for seed in range(20):
        draw, ratios = random.Random(seed), []
        said = None
        while said is None:
            ratios += [shift * draw.lognormvariate(0, noise) for _ in range(PAIRS_A_ROUND)]
            said = verdict(ratios)
        assert said is same, (seed, len(ratios), interval(ratios))


@dataclass
class Tenants:
    mesh: KeystoneMesh
    theirs: Account
    real: dict[str, str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tenants(identity_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tenants]:
    """A has one of everything that has an id."""
    folder = tmp_path_factory.mktemp("tenants")
    async with keystone_mesh(identity_cloud, folder) as mesh:
        theirs = identity_cloud.account("member", "creator")
        yield Tenants(mesh, theirs, await one_of_everything(mesh, theirs, folder))


async def one_of_everything(mesh: KeystoneMesh, who: Account, folder: Path) -> dict[str, str]:
    sites = Sites(folder)
    origin = {"type": "image", "connection_info": {"path": str(sites.origin)}}
    destination = {"type": "image", "connection_info": {"path": str(sites.destination)}}
    migration = {"origin": origin, "destination": destination, "instances": ["vm"], "skip_os_morphing": True}
    with mesh.client(who) as client:

        def made(path: str, body: dict[str, Any], kind: str) -> str:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return str(answer.json()[kind]["id"])

        job = made("/migrations", {"migration": {**migration, "replication_count": 1}}, "migration")
        ended = await mesh.wait(who, job, lambda found: found["status"] in END)
        assert ended["status"] == "COMPLETED", ended["tasks"]
        limit = client.put(f"/bandwidth-limits/job/{job}", json=BODIES["set_job_bandwidth_limit"])
        assert limit.status_code == 200, limit.text
        (manifest,) = client.get(f"/migrations/{job}/manifests").json()["manifests"]
        return {
            "migration_id": job,
            "disk_id": manifest["disk_id"],
            "verification_id": made(f"/migrations/{job}/actions", {"verify": None}, "verification"),
            "inspection_id": made("/inspections", {"inspection": {"origin": origin, "instance": "vm"}}, "inspection"),
            "survey_id": made("/surveys", {"survey": {"origin": origin, "instances": ["vm"]}}, "survey"),
            "secret_id": mesh.store_secret(who, "{}"),
        }


async def test_every_operation_answers_the_same_in_the_same_time(tenants: Tenants) -> None:
    mine = tenants.mesh.cloud.account("member", "creator")
    document = (await asyncio.to_thread(httpx.get, f"{tenants.mesh.url}/openapi.json")).json()
    asked = list(questions(document, mine.project_id, tenants.theirs.project_id, tenants.real))
    known = {operation["operationId"] for _, _, operation in operations(document)}
    assert {one.name.split()[0] for one in asked} == known
    assert len(asked) > len(known)
    wrong = await asyncio.to_thread(_ask_all, tenants, mine, asked)
    assert wrong == [], "\n".join(wrong)
    with tenants.mesh.client(tenants.theirs) as client:
        assert client.get(f"/migrations/{tenants.real['migration_id']}").json()["migration"]["status"] == "COMPLETED"
        assert len(client.get("/bandwidth-limits").json()["bandwidth_limits"]) == 1, "nothing was changed by asking"


async def test_a_survey_acts_for_its_caller_without_any_credentials(tenants: Tenants, tmp_path: Path) -> None:
    who = tenants.mesh.cloud.account("member", "creator")
    tenants.mesh.store_secret(who, json.dumps({"path": str(tmp_path)}), "place")
    with tenants.mesh.client(who) as client:
        answer = client.post("/surveys", json={"survey": {"destination": {"type": "trusting"}}})
        assert answer.status_code == 200, answer.text
        found, end = answer.json()["survey"], time.monotonic() + 60
        while found["status"] == "RUNNING":
            assert time.monotonic() < end, found
            await asyncio.sleep(0.2)
            found = client.get(f"/surveys/{found['id']}").json()["survey"]
    assert found["status"] == "COMPLETED", found["message"]
    assert found["takes"]["members"]


def _ask_all(tenants: Tenants, mine: Account, asked: list[Question]) -> list[str]:
    wrong, order = [], random.Random(7)
    with httpx.Client(base_url=tenants.mesh.url, timeout=30) as client:
        for question in asked:
            client.headers["X-Auth-Token"] = mine.token()  # no token ages, and none is asked about within a measurement
            ratios: list[float] = []
            before, said = len(wrong), None
            _same(client, question, tenants, order, wrong)  # the token is asked about, the connection is made
            while said is None and len(wrong) == before:
                ratios += [_same(client, question, tenants, order, wrong) for _ in range(PAIRS_A_ROUND)]
                said = verdict(ratios)
            if said is False:
                low, high = interval(ratios)
                median = statistics.median(ratios)
                wrong.append(
                    f"{question.name}: {median:.2f} times as long ({low:.2f} to {high:.2f}, {len(ratios)} pairs)"
                )
    return wrong


def _same(client: httpx.Client, question: Question, tenants: Tenants, order: random.Random, wrong: list[str]) -> float:
    """The ratio of both times; what differs otherwise goes to ``wrong``."""
    took, answers = {}, {}
    forms = [question.foreign, question.absent]
    order.shuffle(forms)
    for url in forms:
        request = client.build_request(question.method, url, json=question.body)
        began = time.perf_counter()
        answers[url] = client.send(request)
        took[url] = time.perf_counter() - began
    foreign, absent = answers[question.foreign], answers[question.absent]
    hidden = foreign.text
    for value in (*tenants.real.values(), tenants.theirs.project_id):
        hidden = hidden.replace(value, ABSENT if len(value) == 36 else NOWHERE)
    if (foreign.status_code, hidden) != (absent.status_code, absent.text) or _plain(foreign) != _plain(absent):
        wrong.append(
            f"{question.name}: {foreign.status_code} {foreign.text} instead of {absent.status_code} {absent.text}"
        )
    return took[question.foreign] / took[question.absent]


def _plain(answer: httpx.Response) -> dict[str, str]:
    """Headers that do not change with every request."""
    changing = {"date", "x-compute-request-id", "x-openstack-request-id"}
    return {name: value for name, value in answer.headers.items() if name not in changing}
