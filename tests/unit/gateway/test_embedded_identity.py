"""Users, passwords, tokens: with a clock that the test owns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coriolis.errors import Conflict, InvalidInput, NotFound, Throttled, Unauthenticated
from gateway import embedded_identity, tokens
from gateway.embedded_identity import FAILURE_WINDOW_S, MAX_FAILURES, EmbeddedIdentity, Scope
from gateway.tokens import KEY_BYTES, MAX_TOKEN_CHARS, Claims, TokenSigner
from gateway.users_file import (
    Credentials,
    add_user,
    check_password,
    hash_password,
    load_users,
    remove_user,
    save_users,
    write_default_users,
)

TTL_S = 600


class Clock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def now(self) -> datetime:
        return self.moment

    def pass_s(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admin(tmp_path: Path) -> Credentials:
    return write_default_users(tmp_path / "users.json")


@pytest.fixture
def identity(tmp_path: Path, admin: Credentials, clock: Clock) -> EmbeddedIdentity:
    signer = TokenSigner.from_key_file(tmp_path / "token.key")
    return EmbeddedIdentity(tmp_path / "users.json", signer, TTL_S, clock=clock)


async def log_in(identity: EmbeddedIdentity, who: Credentials) -> str:
    scope = Scope(project_name=who.project_name)
    return (await identity.log_in(who.password, scope, user_name=who.username)).token


async def test_tokens_end(identity: EmbeddedIdentity, admin: Credentials, clock: Clock) -> None:
    token = await log_in(identity, admin)
    caller = await identity.validate(token)
    assert (caller.project_id, caller.user_name, caller.roles) == (admin.project_id, "admin", {"admin"})
    clock.pass_s(TTL_S - 1)
    await identity.validate(token)
    clock.pass_s(1)
    with pytest.raises(Unauthenticated, match="expired"):
        await identity.validate(token)


async def test_tokens_are_good_at_every_gateway_with_the_key(
    identity: EmbeddedIdentity, admin: Credentials, clock: Clock, tmp_path: Path
) -> None:
    token = await log_in(identity, admin)
    same = EmbeddedIdentity(
        tmp_path / "users.json", TokenSigner.from_key_file(tmp_path / "token.key"), TTL_S, clock=clock
    )
    assert (await same.validate(token)).project_id == admin.project_id
    other = EmbeddedIdentity(tmp_path / "users.json", TokenSigner(b"x" * KEY_BYTES), TTL_S, clock=clock)
    with pytest.raises(Unauthenticated, match="signature"):
        await other.validate(token)
    assert (tmp_path / "token.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "users.json").stat().st_mode & 0o777 == 0o600


async def test_changes_of_the_file_count_at_once(identity: EmbeddedIdentity, tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    alice = add_user(path, "alice", "web", ["member"])
    token = await log_in(identity, alice)
    await identity.validate(token)
    path.write_text("{broken")
    await identity.validate(token)  # the last good version stays
    path.unlink()
    await identity.validate(token)
    add_user(path, "bob", "web", ["member"])
    with pytest.raises(Unauthenticated, match="gone"):
        await identity.validate(token)


async def test_revocation_is_bounded(
    identity: EmbeddedIdentity, admin: Credentials, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_REVOKED", 1)
    first, second = await log_in(identity, admin), await log_in(identity, admin)
    identity.revoke(first)
    with pytest.raises(Unauthenticated, match="revoked"):
        await identity.validate(first)
    with pytest.raises(Throttled):
        identity.revoke(second)
    clock.pass_s(TTL_S)
    identity.revoke(await log_in(identity, admin))


async def test_failed_logins_are_bounded_and_alike(
    identity: EmbeddedIdentity, admin: Credentials, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = set()
    for name in ("admin", "nobody"):
        for _ in range(MAX_FAILURES):
            with pytest.raises(Unauthenticated) as refused:
                await identity.log_in("wrong", Scope(), user_name=name)
            said.add(refused.value.message)
        with pytest.raises(Throttled):
            await identity.log_in(admin.password, Scope(), user_name=name)
    assert len(said) == 1
    clock.pass_s(FAILURE_WINDOW_S)
    assert await log_in(identity, admin)
    monkeypatch.setattr(embedded_identity, "MAX_WATCHED_USERS", 3)
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await identity.log_in("wrong", Scope(), user_name=f"guess{number}")
    assert len(identity._attempts.users) == 3


async def test_scopes(identity: EmbeddedIdentity, admin: Credentials, tmp_path: Path) -> None:
    web = add_user(tmp_path / "users.json", "alice", "web", ["member"])
    with pytest.raises(Unauthenticated):
        await identity.log_in(admin.password, Scope(project_id=web.project_id), user_name="admin")
    unscoped = await identity.log_in(admin.password, Scope(), user_name="admin")
    with pytest.raises(Unauthenticated, match="not scoped"):
        await identity.validate(unscoped.token)
    with pytest.raises(Unauthenticated):
        identity.rescope(unscoped.token, Scope(project_name="web"))
    scoped = identity.rescope(unscoped.token, Scope(project_name="admin"))
    identity.revoke(unscoped.token)
    with pytest.raises(Unauthenticated, match="revoked"):
        await identity.validate(scoped.token)


@pytest.mark.parametrize(
    "token", ["", ".", "c1..", "c1.e30.", "x" * 70_000, "c1." + "A" * MAX_TOKEN_CHARS + ".A", "ü.ü.ü"]
)
def test_garbage_is_no_token(token: str) -> None:
    with pytest.raises(Unauthenticated):
        TokenSigner(b"k" * KEY_BYTES).open(token, 0)


def test_each_changed_character_breaks_a_token() -> None:
    signer = TokenSigner(b"k" * KEY_BYTES)
    token = signer.sign(Claims("u", "p", 0, 10, ("a",), ("password",), "m"))
    assert signer.open(token, 9).user_id == "u"
    for position in range(len(token)):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(Unauthenticated):
            signer.open(changed, 0)


def test_password_hashes() -> None:
    made = hash_password("open sesame")
    assert made != hash_password("open sesame")
    assert check_password("open sesame", made)
    assert not check_password("open sesam", made)
    assert not check_password("x" * 2000, made)
    assert not check_password("\ud800", made)
    for wrong in (
        "",
        "scrypt$1$1$1$a$b",
        made.replace("scrypt", "plain"),
        made.replace("16384", str(1 << 30)),
        made[:-9],
    ):
        with pytest.raises(InvalidInput):
            check_password("x", wrong)
    with pytest.raises(InvalidInput):
        hash_password("")


def test_the_users_file(tmp_path: Path) -> None:
    for name in ("users.json", "users.toml"):
        path = tmp_path / name
        made = write_default_users(path)
        assert made.password not in path.read_text()
        assert f"export OS_PASSWORD={made.password}" in made.openrc("http://x/v3")
        with pytest.raises(Conflict):
            write_default_users(path)
        again = add_user(path, "admin", "second", ["reader"])
        assert again.password == "", "an existing user's password stays"
        user = load_users(path).user(name="admin")
        assert user is not None
        assert user.roles == {made.project_id: ["admin"], again.project_id: ["reader"]}
        with pytest.raises(InvalidInput, match="roles are"):
            add_user(path, "bob", "second", ["king"])
        with pytest.raises(NotFound):
            remove_user(path, "bob")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_users(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"users": [{"id": "x"}]}', "name"),
        ('{"projects": [{"id": "short", "name": "a"}]}', "32 hex"),
        ('{"projects": [{"id": "%s", "name": "a", "colour": 1}]}' % ("0" * 32), "colour"),
        ('{"users": [{"id": "%s", "name": "a", "password_hash": "plain"}]}' % ("0" * 32), "'a'"),
    ],
)
def test_a_broken_users_file_says_where(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "users.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=named) as wrong:
        load_users(path)
    assert str(path) in wrong.value.message


def test_names_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    write_default_users(path)
    users = load_users(path)
    doubled = type(users)(users.projects, [*users.users, *users.users])
    with pytest.raises(InvalidInput, match="of its own"):
        save_users(path, doubled)
