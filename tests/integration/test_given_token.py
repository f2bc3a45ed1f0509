"""What a provider does with the token of a trust, against a real Keystone and Barbican."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openstack
import pytest

from coriolis.config import KeystoneConfig
from coriolis.errors import CredentialsLost
from coriolis.keystone.given_token import given_session
from coriolis.keystone.service_account import ServiceAccount
from coriolis.keystone.trusts import Delegations, make_trust
from tests.integration.keystone_mesh import keystone_settings
from tests.lab.openstack_site import Account, Cloud

pytestmark = pytest.mark.lab

BARBICAN = {"service_type": "key-manager", "interface": "public"}


@pytest.fixture
def who(identity_cloud: Cloud) -> Account:
    return identity_cloud.account("member", "creator")


@pytest.fixture
async def granted(identity_cloud: Cloud, who: Account, tmp_path: Path) -> AsyncIterator[tuple[Delegations, str]]:
    """What the leader has: trusts, and the id of one of ``who``."""
    service = identity_cloud.account("service")
    account = ServiceAccount(KeystoneConfig(**keystone_settings(identity_cloud, service, tmp_path)))
    token, roles = who.token(), frozenset({"member", "creator"})
    trust = await make_trust(account, token=token, user_id=who.user_id, project_id=who.project_id, roles=roles)
    yield Delegations(account), trust
    account.close()


class Leader:
    """Gives the same connection info again, and counts."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info
        self.asked = 0

    def renew(self) -> dict[str, Any]:
        self.asked += 1
        return self.info


async def test_openstacksdk_works_with_it(granted: tuple[Delegations, str], who: Account) -> None:
    delegations, trust = granted
    info = await delegations.connection_info(trust)
    assert info["project_id"] == who.project_id
    leader = Leader(info)
    cloud = openstack.connection.Connection(
        session=given_session(info, leader.renew), region_name=info["region_name"], interface="public"
    )
    made = cloud.key_manager.create_secret(name="of the owner", payload="x", payload_content_type="text/plain")
    assert [each.name for each in cloud.key_manager.secrets()] == ["of the owner"]
    assert cloud.current_project_id == who.project_id
    cloud.key_manager.delete_secret(made.secret_ref.rpartition("/")[2])
    assert leader.asked == 0


async def test_a_token_that_ended_or_is_refused_is_asked_for_anew_once(granted: tuple[Delegations, str]) -> None:
    delegations, trust = granted
    info = await delegations.connection_info(trust)
    leader = Leader(info)
    ended = {**info, "token": "x", "token_expires_at": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    session = given_session(ended, leader.renew)
    assert session.get("/v1/secrets", endpoint_filter=BARBICAN).status_code == 200
    assert leader.asked == 1
    session.auth.invalidate()  # what keystoneauth does on a 401 of a service
    assert session.get("/v1/secrets", endpoint_filter=BARBICAN).status_code == 200
    assert leader.asked == 2


async def test_a_deleted_trust_is_lost_credentials_on_both_sides(granted: tuple[Delegations, str]) -> None:
    delegations, trust = granted
    info = await delegations.connection_info(trust)
    await delegations.remove(trust)
    await delegations.remove(trust)
    with pytest.raises(CredentialsLost, match="Keystone refuses the token"):
        given_session(info, None).get("/v1/secrets", endpoint_filter=BARBICAN)
    with pytest.raises(CredentialsLost, match="works no more"):
        await delegations.connection_info(trust)
    assert trust not in await delegations.mine()


async def test_a_role_that_was_taken_away_ends_the_trust(
    granted: tuple[Delegations, str], who: Account, identity_cloud: Cloud
) -> None:
    delegations, trust = granted
    roles = identity_cloud.identity("GET", "/roles")["roles"]
    member = next(role["id"] for role in roles if role["name"] == "member")
    identity_cloud.identity("DELETE", f"/projects/{who.project_id}/users/{who.user_id}/roles/{member}")
    with pytest.raises(CredentialsLost):
        await delegations.connection_info(trust)
    with pytest.raises(CredentialsLost):
        await delegations.remove(trust)
