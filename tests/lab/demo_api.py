"""The demo's client of the REST API: log in as OpenStack's clients do, create a migration, follow its events."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

TERMINAL = ("COMPLETED", "ERROR", "CANCELED")
REQUEST_TIMEOUT_S = 30.0
SILENCE_S = 60.0
"""The event stream says something, at least a comment, every 15 s."""
RETRY_PAUSE_S = 1.0
MAX_DOWN_S = 60.0


def read_openrc(path: Path) -> dict[str, str]:
    """The OS_* variables that the file would export."""
    words = shlex.split(path.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if word.startswith("OS_"))


class Api:
    """A session with a token of the project that ``openrc`` names."""

    def __init__(self, openrc: dict[str, str]) -> None:
        self._answered = time.monotonic()
        # a proxy of the environment has no business between this process and loopback
        self._http = httpx.Client(timeout=REQUEST_TIMEOUT_S, trust_env=False)
        domain = {"name": openrc["OS_USER_DOMAIN_NAME"]}
        user = {"name": openrc["OS_USERNAME"], "domain": domain, "password": openrc["OS_PASSWORD"]}
        project = {"name": openrc["OS_PROJECT_NAME"], "domain": {"name": openrc["OS_PROJECT_DOMAIN_NAME"]}}
        identity = {"methods": ["password"], "password": {"user": user}}
        answer = self._http.post(
            f"{openrc['OS_AUTH_URL']}/auth/tokens", json={"auth": {"identity": identity, "scope": {"project": project}}}
        )
        answer.raise_for_status()
        self._http.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]
        project_id = answer.json()["token"]["project"]["id"]
        base = openrc["OS_AUTH_URL"].removesuffix("/v3")
        self.migrations_url = f"{base}/v1/{project_id}/migrations"

    def create(self, migration: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(self.migrations_url, json={"migration": migration})
        if answer.is_error:
            raise RuntimeError(f"POST {self.migrations_url}: {answer.status_code} {answer.text}")
        made: dict[str, Any] = answer.json()["migration"]
        return made

    def show(self, migration_id: str) -> dict[str, Any]:
        answer = self._http.get(f"{self.migrations_url}/{migration_id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()["migration"]
        self._answered = time.monotonic()
        return found

    def follow(self, migration_id: str, timeout_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events until the migration is terminal; a broken stream is opened again. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self.show(migration_id)["status"] in TERMINAL:
                    return
                for kind, document in self._events(migration_id):
                    yield kind, document
                    if kind == "state" and document["status"] in TERMINAL:
                        return
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"migration {migration_id} has not ended after {timeout_s:.0f} s")
            except httpx.HTTPError:
                # a gateway that restarts, an election, a token that ended its stream
                if time.monotonic() > deadline or self._down_for() > MAX_DOWN_S:
                    raise
            time.sleep(RETRY_PAUSE_S)

    def _down_for(self) -> float:
        """Seconds since the API last answered."""
        return time.monotonic() - self._answered

    def _events(self, migration_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        url = f"{self.migrations_url}/{migration_id}/events"
        with self._http.stream("GET", url, timeout=httpx.Timeout(REQUEST_TIMEOUT_S, read=SILENCE_S)) as stream:
            stream.raise_for_status()
            kind = ""
            for line in stream.iter_lines():
                name, _, value = line.partition(":")
                if name == "event":
                    kind = value.strip()
                elif name == "data":
                    self._answered = time.monotonic()
                    yield kind, json.loads(value)
