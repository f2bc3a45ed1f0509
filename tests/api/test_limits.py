"""Bandwidth limits over REST and on the command line: forms, roles, whose they are."""

from __future__ import annotations

import json
import secrets

import pytest

from coriolis.cli.exits import Exit
from gateway.users_file import add_user
from tests.api.stack import BODY, Stack
from tests.api.test_cli import Shell
from tests.api.test_cli import shell as shell  # a fixture

OFFICE = {
    "bandwidth_limit": {
        "rate": "none",
        "calendar": ["Mon-Fri 08:00-18:00 200Mbit/s", "daily 22:00-24:00 0"],
        "time_zone": "Europe/Paris",
    }
}


def test_a_limit_is_set_listed_replaced_and_deleted(stack: Stack) -> None:
    with stack.client(stack.admin) as client:
        made = client.put("/bandwidth-limits/link/paris/oslo", json=OFFICE)
        assert made.status_code == 200, made.text
        limit = made.json()["bandwidth_limit"]
        assert (limit["scope"], limit["name"]) == ("link", "paris/oslo")
        assert limit["calendar"] == OFFICE["bandwidth_limit"]["calendar"]
        assert limit["rate_bytes_per_s"] is None
        assert limit["next_change"]["rate"] != limit["rate_now"]
        assert limit["rate_now"] in ("none", "200Mbit/s", "0")
        assert limit in client.get("/bandwidth-limits").json()["bandwidth_limits"]
        again = client.put("/bandwidth-limits/link/paris/oslo", json={"bandwidth_limit": {"rate": "25MB/s"}})
        limit = again.json()["bandwidth_limit"]
        assert (limit["rate"], limit["rate_now_bytes_per_s"], limit["next_change"]) == ("200Mbit/s", 25_000_000, None)
        assert client.delete("/bandwidth-limits/link/paris/oslo").status_code == 204
        assert client.delete("/bandwidth-limits/link/paris/oslo").status_code == 404
        assert client.put("/bandwidth-limits/agent/absent", json=OFFICE).status_code == 404


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        ({}, "bandwidth_limit.rate"),
        ({"rate": "fast"}, "bandwidth_limit.rate"),
        ({"rate": 5}, "bandwidth_limit.rate"),
        ({"rate": "none", "calendar": ["Mon 08:00 1MB/s"]}, "bandwidth_limit.calendar.0"),
        ({"rate": "none", "calendar": ["daily 00:00-01:00 1MB/s"] * 33}, "bandwidth_limit.calendar"),
        ({"rate": "none", "time_zone": "Mars/Olympus"}, "time_zone"),
        ({"rate": "none", "burst": 1}, "bandwidth_limit.burst"),
    ],
)
def test_what_is_wrong_is_named(stack: Stack, limit: dict[str, object], field: str) -> None:
    with stack.client(stack.admin) as client:
        refused = client.put("/bandwidth-limits/agent/agent-a", json={"bandwidth_limit": limit})
    assert refused.status_code == 400
    assert field in refused.json()["error"]["message"]


def test_agents_and_links_are_the_operators_and_jobs_the_projects(stack: Stack) -> None:
    name = f"m{secrets.token_hex(4)}"
    member = add_user(stack.tls / "users.json", name, "admin", ["member"])
    body = {"bandwidth_limit": {"rate": "10MB/s"}}
    with (
        stack.client(stack.admin) as admin,
        stack.client(member) as worker,
        stack.client(stack.reader) as reader,
        stack.client(stack.other) as other,
    ):
        migration = worker.post("/migrations", json=BODY).json()["migration"]["id"]
        assert admin.put("/bandwidth-limits/agent/agent-a", json=body).status_code == 200
        for path in ("agent/agent-a", "link/a/b"):
            assert worker.put(f"/bandwidth-limits/{path}", json=body).status_code == 403
            assert worker.delete(f"/bandwidth-limits/{path}").status_code == 403
        assert worker.put(f"/bandwidth-limits/job/{migration}", json=body).status_code == 200
        assert reader.put(f"/bandwidth-limits/job/{migration}", json=body).status_code == 403

        def seen(client: object) -> set[str]:
            limits = client.get("/bandwidth-limits").json()["bandwidth_limits"]  # type: ignore[attr-defined]
            return {one["name"] for one in limits}

        assert {migration, "agent-a"} <= seen(admin)
        assert "agent-a" not in seen(worker) | seen(reader)
        assert migration in seen(worker) & seen(reader)
        assert migration not in seen(other)
        assert other.put(f"/bandwidth-limits/job/{migration}", json=body).status_code == 404
        assert other.delete(f"/bandwidth-limits/job/{migration}").status_code == 404
        assert migration in seen(worker)
        assert admin.delete("/bandwidth-limits/agent/agent-a").status_code == 204
        assert worker.delete(f"/bandwidth-limits/job/{migration}").status_code == 204


def test_the_command_line(stack: Stack, shell: Shell) -> None:
    window = "Mon-Fri 08:00-18:00 200Mbit/s"
    out = shell.run("limit", "set", "link:paris/oslo", "none", "--window", window, "--time-zone", "Europe/Paris")
    assert "link:paris/oslo" in out
    made = json.loads(shell.run("limit", "set", "agent:agent-a", "0", "-o", "json"))["bandwidth_limit"]
    assert made["rate_now_bytes_per_s"] == 0
    listed = shell.run("limit", "list")
    assert window in listed
    assert "paused" in listed
    assert {one["scope"] for one in json.loads(shell.run("limit", "list", "-o", "json"))["bandwidth_limits"]} >= {
        "agent",
        "link",
    }
    shell.run("limit", "delete", "agent:agent-a", "link:paris/oslo")
    shell.run("limit", "delete", "agent:agent-a", code=Exit.NOT_FOUND)
    assert "RATE" in shell.run("limit", "set", "agent:a", "fast", code=Exit.USAGE)
    assert "--window" in shell.run("limit", "set", "agent:a", "none", "--window", "x", code=Exit.USAGE)
    assert "time_zone" in shell.run("limit", "set", "agent:a", "none", "--time-zone", "x", code=Exit.USAGE)
    for scope in ("paris", "link:paris", "road:x", "agent:", "link:a/b/c", "job:../x"):
        shell.run("limit", "set", scope, "none", code=Exit.USAGE)
