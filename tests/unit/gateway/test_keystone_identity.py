"""What a real Keystone cannot be made to do: expired, odd, slow, endless. tests/integration has the rest."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coriolis.config import KeystoneConfig
from coriolis.errors import Denied, InvalidInput, Throttled, Unauthenticated, Unavailable
from coriolis.keystone import bounded_http, service_account
from coriolis.keystone.barbican import secret_id_of
from coriolis.keystone.service_account import ServiceAccount
from coriolis.keystone.trusts import check_trust_id
from gateway import keystone_identity
from gateway.keystone_identity import KeystoneIdentity, caller_of

NOW = datetime.now(UTC)
SECRET = "0a0a0a0a-0000-4000-8000-000000000001"


def described(**changes: Any) -> dict[str, Any]:
    token = {
        "expires_at": (NOW + timedelta(hours=1)).isoformat(),
        "user": {"id": "u", "name": "user"},
        "project": {"id": "p", "name": "project"},
        "roles": [{"id": "1", "name": "member"}],
        **changes,
    }
    return {"token": {name: value for name, value in token.items() if value is not None}}


def test_a_token_is_understood() -> None:
    caller = caller_of(described(), "t", NOW)
    assert (caller.user_id, caller.project_id, caller.roles) == ("u", "p", {"member"})
    assert "'t'" not in repr(caller), "tokens stay out of logs"


@pytest.mark.parametrize(
    "changes",
    [
        {"project": None},
        {"project": None, "domain": {"id": "default"}},
        {"project": None, "system": {"all": True}},
        {"is_domain": True},
        {"expires_at": (NOW - timedelta(seconds=1)).isoformat()},
    ],
)
def test_tokens_that_let_nobody_in(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        caller_of(described(**changes), "t", NOW)


@pytest.mark.parametrize("said", [{}, [], {"token": 1}, described(user=None), described(project={"id": ""})])
def test_an_answer_that_is_none_lets_nobody_in(said: Any) -> None:
    with pytest.raises(Unavailable):
        caller_of(said, "t", NOW)


class PhonyKeystone(http.server.BaseHTTPRequestHandler):
    """Gives our account a token, then behaves as the test says."""

    behaviour = "well"
    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        catalog: list[Any] = []
        if self.path.endswith("/trusts"):
            self._answer(int(self.behaviour), {"error": {"message": "role", "code": int(self.behaviour)}})
            return
        self._answer(201, described(catalog=catalog, methods=["password"], issued_at=NOW.isoformat()))

    def do_GET(self) -> None:
        type(self).asked += 1
        match self.behaviour:
            case "slow":
                time.sleep(1.5)
                self._answer(200, described())
            case "endless":
                self.send_response(200)
                self.end_headers()
                chunk = b"x" * (1 << 16)
                while True:
                    self.wfile.write(chunk)
            case "text":
                self._answer(200, None)
            case "500" | "429":
                self._answer(int(self.behaviour), {"error": {"message": "no", "code": int(self.behaviour)}})
            case _:
                self._answer(200, described())

    def _answer(self, code: int, document: Any) -> None:
        body = b"<html>" if document is None else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("X-Subject-Token", "ours")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            return

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def phony_keystone(behaviour: str, tmp_path: Path) -> Iterator[tuple[KeystoneIdentity, type[PhonyKeystone]]]:
    kind = type("Behaving", (PhonyKeystone,), {"behaviour": behaviour, "asked": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    password = tmp_path / "password"
    password.touch(0o600)
    config = KeystoneConfig(auth_url=f"http://127.0.0.1:{server.server_port}/v3", password_file=str(password))
    identity = KeystoneIdentity(ServiceAccount(config))
    try:
        yield identity, kind
    finally:
        identity.close()
        server.shutdown()
        server.server_close()


async def test_many_requests_with_one_token_ask_once(tmp_path: Path) -> None:
    with phony_keystone("well", tmp_path) as (identity, keystone):
        callers = await asyncio.gather(*(identity.validate("t") for _ in range(50)))
        assert {caller.project_id for caller in callers} == {"p"}
        await identity.validate("t")
        assert keystone.asked == 1


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keystone_identity, "MAX_TOKENS", 5)
    with phony_keystone("well", tmp_path) as (identity, keystone):
        for number in range(8):
            await identity.validate(f"t{number}")
        await identity.validate("t7")
        assert keystone.asked == 8
        await identity.validate("t0")
        assert keystone.asked == 9


@pytest.mark.parametrize("behaviour", ["slow", "endless", "text", "500"])
async def test_a_keystone_that_misbehaves_lets_nobody_in(
    behaviour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_account, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(bounded_http, "MAX_ANSWER_BYTES", 1 << 20)
    with phony_keystone(behaviour, tmp_path) as (identity, _), pytest.raises(Unavailable):
        await identity.validate("t")


@pytest.mark.parametrize(("status", "said"), [("403", "cannot delegate"), ("404", "roles"), ("409", "roles")])
async def test_a_token_that_cannot_delegate_is_denied(status: str, said: str, tmp_path: Path) -> None:
    """Keystone's 404 is of a role that the user has by federation only; as a 404 of ours it would be of the project."""
    with phony_keystone(status, tmp_path) as (identity, _), pytest.raises(Denied, match=f"this token.*{said}"):
        await identity.delegate(caller_of(described(), "t", NOW))


async def test_too_many_questions_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_account, "MAX_WAITING", 2)
    with phony_keystone("slow", tmp_path) as (identity, _):
        first = [asyncio.create_task(identity.validate(f"t{number}")) for number in range(2)]
        await asyncio.sleep(0.1)
        with pytest.raises(Throttled):
            await identity.validate("t9")
        await asyncio.gather(*first)


def test_references_of_secrets() -> None:
    assert secret_id_of(SECRET) == SECRET
    assert secret_id_of(f"https://barbican.example:9311/key-manager/v1/secrets/{SECRET}") == SECRET
    for wrong in ("", "x", f"{SECRET}/payload", f"http://a b/v1/secrets/{SECRET}", f"ftp://a/v1/secrets/{SECRET}"):
        with pytest.raises(InvalidInput):
            secret_id_of(wrong)


@pytest.mark.parametrize("wrong", ["", "../users", "a/b", "x" * 65, "a?b"])
def test_a_trust_id_never_becomes_another_path(wrong: str) -> None:
    with pytest.raises(InvalidInput):
        check_trust_id(wrong)


def test_configuration_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="/v3"):
        KeystoneConfig(auth_url="http://127.0.0.1:5000")
    with pytest.raises(InvalidInput, match="trust_days"):
        KeystoneConfig(auth_url="http://127.0.0.1:5000/v3", trust_days=0)
    with pytest.raises(InvalidInput, match="cannot be read"):
        ServiceAccount(KeystoneConfig(auth_url="http://127.0.0.1:5000/v3", password_file=str(tmp_path / "none")))
    shown = tmp_path / "shown"
    shown.write_text("x")
    shown.chmod(0o644)
    with pytest.raises(InvalidInput, match="0600"):
        ServiceAccount(KeystoneConfig(auth_url="http://127.0.0.1:5000/v3", password_file=str(shown)))
