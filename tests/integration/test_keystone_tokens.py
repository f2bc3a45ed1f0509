"""Tokens of a real Keystone at the gateway's edge: what is let in, for how long, and what happens without Keystone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from coriolis.config import KeystoneConfig
from coriolis.errors import Denied, Unauthenticated, Unavailable
from coriolis.keystone.service_account import ServiceAccount
from gateway.app import build_app
from gateway.keystone_identity import VALID_S, KeystoneIdentity
from gateway.settings import GatewayConfig
from tests.integration.keystone_mesh import keystone_settings
from tests.lab.openstack_site import Account, Cloud

pytestmark = pytest.mark.lab


class SettableClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.passed)


class NoMigrations:
    """In place of the mesh: what is asked here is only whether a request comes through."""

    async def list_migrations(self, project_id: str, page: Any, *, with_tasks: bool) -> tuple[list[Any], bool]:
        return [], False


@pytest.fixture(scope="module")
def config(identity_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> KeystoneConfig:
    service = identity_cloud.account("service")
    return KeystoneConfig(**keystone_settings(identity_cloud, service, tmp_path_factory.mktemp("keystone")))


@pytest.fixture(scope="module")
def who(identity_cloud: Cloud) -> Account:
    return identity_cloud.account("member")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def identity(config: KeystoneConfig, clock: SettableClock) -> Iterator[KeystoneIdentity]:
    found = KeystoneIdentity(ServiceAccount(config), clock=clock)  # type: ignore[arg-type]  # a clock of the test
    yield found
    found.close()


@pytest.fixture
async def client(identity: KeystoneIdentity, config: KeystoneConfig) -> AsyncIterator[httpx.AsyncClient]:
    settings = GatewayConfig(auth="keystone", keystone=config)
    app = build_app(settings, NoMigrations(), identity, identity)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as found:
        yield found


async def status(client: httpx.AsyncClient, token: str, project_id: str, **headers: str) -> int:
    answer = await client.get(f"/v1/{project_id}/migrations", headers={"X-Auth-Token": token, **headers})
    return answer.status_code


async def test_the_token_alone_says_who_asks_and_for_which_project(
    client: httpx.AsyncClient, who: Account, identity_cloud: Cloud
) -> None:
    stranger = identity_cloud.account("member")
    token = who.token()
    assert await status(client, token, who.project_id) == 200
    assert await status(client, token, stranger.project_id) == 404
    forged = {"X-Project-Id": stranger.project_id, "X-Identity-Status": "Confirmed", "X-Roles": "admin"}
    assert await status(client, token, stranger.project_id, **forged) == 404
    assert await status(client, "garbage", stranger.project_id, **forged) == 401
    answer = await client.get(f"/v1/{who.project_id}/migrations")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == f'Keystone uri="{identity_cloud.auth_url}"'


async def test_tokens_without_a_project_are_refused(
    client: httpx.AsyncClient, who: Account, identity_cloud: Cloud
) -> None:
    nowhere = {"project_name": None, "project_domain_name": None}
    assert await status(client, who.token(**nowhere), who.project_id) == 401
    admin = identity_cloud.admin
    identity_cloud.identity("PUT", f"/domains/default/users/{admin.user_id}/roles/{role(identity_cloud, 'admin')}")
    assert await status(client, admin.token(**nowhere, domain_name="Default"), admin.project_id) == 401
    assert await status(client, admin.token(**nowhere, system_scope="all"), admin.project_id) == 401


async def test_roles_decide_and_an_unknown_role_may_nothing(client: httpx.AsyncClient, identity_cloud: Cloud) -> None:
    reader, creator = identity_cloud.account("reader"), identity_cloud.account("creator")
    assert await status(client, reader.token(), reader.project_id) == 200
    answer = await client.request(
        "DELETE", f"/v1/{reader.project_id}/migrations/{'1' * 36}", headers={"X-Auth-Token": reader.token()}
    )
    assert answer.status_code == 403
    assert "migration:migrations:delete" in answer.text
    assert await status(client, creator.token(), creator.project_id) == 403


async def test_a_revoked_token_works_for_a_minute_at_most(
    client: httpx.AsyncClient, clock: SettableClock, who: Account, identity_cloud: Cloud
) -> None:
    token = who.token()
    assert await status(client, token, who.project_id) == 200
    revoke = {"X-Subject-Token": token}
    identity_cloud.admin.session().delete(f"{identity_cloud.auth_url}/auth/tokens", headers=revoke)
    assert await status(client, token, who.project_id) == 200, "it was not remembered"
    clock.passed += VALID_S
    assert await status(client, token, who.project_id) == 401
    assert VALID_S <= 60


async def test_a_remembered_token_ends_with_its_own_time(
    client: httpx.AsyncClient, clock: SettableClock, who: Account
) -> None:
    token = who.token()
    assert await status(client, token, who.project_id) == 200
    clock.passed += 2 * 86400
    assert await status(client, token, who.project_id) == 401


async def test_without_keystone_the_answer_is_503_and_nobody_is_let_in(
    client: httpx.AsyncClient, clock: SettableClock, who: Account, identity_cloud: Cloud
) -> None:
    known, fresh = who.token(), who.token()
    assert await status(client, known, who.project_id) == 200
    identity_cloud.stop_process("keystone")
    try:
        assert await status(client, known, who.project_id) == 200, "what was validated a moment ago goes on"
        answer = await client.get(f"/v1/{who.project_id}/migrations", headers={"X-Auth-Token": fresh})
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "Keystone cannot be reached" in answer.text
        clock.passed += VALID_S
        assert await status(client, known, who.project_id) == 503
    finally:
        identity_cloud.start()
    assert await status(client, fresh, who.project_id) == 200


async def test_our_own_account_refused_is_no_fault_of_the_caller(
    config: KeystoneConfig, who: Account, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("not the password")
    settings = {name: getattr(config, name) for name in config.__struct_fields__}
    identity = KeystoneIdentity(ServiceAccount(KeystoneConfig(**{**settings, "password_file": str(wrong)})))
    with pytest.raises(Unavailable, match="own account"):
        await identity.validate(who.token())
    identity.close()


async def test_an_application_credential_cannot_delegate_and_is_told_so(
    identity: KeystoneIdentity, who: Account, identity_cloud: Cloud
) -> None:
    from keystoneauth1 import session
    from keystoneauth1.identity import v3

    made = who.session().post(
        f"{identity_cloud.auth_url}/users/{who.user_id}/application_credentials",
        json={"application_credential": {"name": "ci"}},
    )
    credential = made.json()["application_credential"]
    auth = v3.ApplicationCredential(
        identity_cloud.auth_url,
        application_credential_id=credential["id"],
        application_credential_secret=credential["secret"],
    )
    caller = await identity.validate(session.Session(auth=auth).get_token())
    with pytest.raises(Denied, match="log in with a password"):
        await identity.delegate(caller)


async def test_garbage_is_asked_about_once(identity: KeystoneIdentity, clock: SettableClock) -> None:
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await identity.validate("gAAAA-no-token")
    with pytest.raises(Unauthenticated, match="a moment ago"):
        await identity.validate("gAAAA-no-token")


def role(cloud: Cloud, name: str) -> str:
    return str(next(role["id"] for role in cloud.identity("GET", "/roles")["roles"] if role["name"] == name))
