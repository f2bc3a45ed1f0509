"""The stream of a migration's events, also across a change of leaders."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gateway import answers
from gateway.routes import events
from tests.api.stack import BODY, Stack


def read(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            yield name, json.loads(line[5:])


def test_follows_to_the_end_across_leaders(stack: Stack) -> None:
    first, second = stack.coordinators
    with stack.client(stack.admin) as client:
        made = client.post("/migrations", json=BODY).json()["migration"]
        with client.stream("GET", f"/migrations/{made['id']}/events") as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            found = read(answer.iter_lines())
            assert next(found)[1]["status"] == "RUNNING"
            task_names, disk = [next(found), next(found)], next(found)
            assert [name for name, _ in task_names] == ["task", "task"]
            answers.Task.model_validate(task_names[1][1])
            assert disk[0] == "disk"
            answers.Disk.model_validate(disk[1])
            stack.call(stack.mesh.lead, second)
            assert [next(found)[0] for _ in range(3)] == ["task", "task", "disk"], "the state is not repeated"
            stack.call(stack.mesh.move, made["id"], "COMPLETED")
            assert [(name, data["status"]) for name, data in found] == [("state", "COMPLETED")]
    stack.call(stack.mesh.lead, first)


def test_of_an_ended_migration_gives_its_state_and_ends(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        made = client.post("/migrations", json=BODY).json()["migration"]
        client.post(f"/migrations/{made['id']}/actions", json={"cancel": None})
        with client.stream("GET", f"/migrations/{made['id']}/events") as answer:
            assert [data["status"] for _, data in read(answer.iter_lines())] == ["CANCELED"]


def test_an_outage_ends_it_with_an_error_event(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        made = client.post("/migrations", json=BODY).json()["migration"]
        with client.stream("GET", f"/migrations/{made['id']}/events") as answer:
            found = read(answer.iter_lines())
            next(found)
            stack.call(stack.mesh.lead, None)
            last = list(found)[-1]
    stack.call(stack.mesh.lead, stack.coordinators[0])
    assert last[0] == "error"
    assert last[1]["error"]["code"] == 503


def test_streams_are_bounded_per_project(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS_PER_PROJECT", 1)
    with stack.client(stack.admin) as client:
        made = client.post("/migrations", json=BODY).json()["migration"]
        url = f"/migrations/{made['id']}/events"
        with client.stream("GET", url) as first:
            held = read(first.iter_lines())
            next(held)
            refused = client.get(url)
            assert refused.status_code == 429
        ended = threading.Event()
        for _ in range(50):  # the place is free again once the server saw the client leave
            with client.stream("GET", url) as again:
                if again.status_code == 200:
                    ended.set()
                    break
            threading.Event().wait(0.1)
        assert ended.is_set()


def test_absent_and_foreign_are_404_before_any_stream(stack: Stack) -> None:
    with stack.client(stack.admin) as client, stack.client(stack.other) as other:
        made = client.post("/migrations", json=BODY).json()["migration"]
        assert other.get(f"/migrations/{made['id']}/events").status_code == 404
        assert httpx.get(str(client.base_url) + f"migrations/{made['id']}/events").status_code == 401
