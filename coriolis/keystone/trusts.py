"""Trusts: a user lets the service's account act for it in one project, with roles that the user has there.

Made with the caller's token at the gateway, used by the leading coordinator, which alone has the account's password
among those who know the id. Removed through themselves: Keystone lets only the trustor delete a trust, and a session of
the trust acts as its trustor (docs/design/keystone.md).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keystoneauth1 import session

from coriolis.errors import Conflict, CredentialsLost, Denied, InvalidInput, NotFound, Unauthenticated
from coriolis.keystone.barbican import read_secret
from coriolis.keystone.service_account import ServiceAccount, failures_of

FRESH_S = 600
"""A token is handed out only while it has so long to live, if Keystone gives tokens so long at all."""
MAX_SESSIONS = 256
MAX_TRUSTS = 100_000
ID_CHARS = frozenset("0123456789abcdefABCDEF-")
MAX_ID_CHARS = 64


@dataclass(frozen=True, slots=True)
class Delegated:
    """A token that acts for a trust's owner. ``expires_at`` is ISO with zone."""

    token: str
    expires_at: str
    project_id: str
    user_id: str

    def __repr__(self) -> str:
        return f"Delegated(for {self.user_id} in {self.project_id} until {self.expires_at})"


def check_trust_id(trust_id: str) -> str:
    """It becomes part of a path. Raises InvalidInput."""
    if not 0 < len(trust_id) <= MAX_ID_CHARS or not ID_CHARS.issuperset(trust_id):
        raise InvalidInput("the trust's id has not the form of one")
    return trust_id


async def make_trust(
    account: ServiceAccount, *, token: str, user_id: str, project_id: str, roles: frozenset[str]
) -> str:
    """The id of a new trust of the token's user for ``account``, for ``trust_days`` of its configuration.

    Raises Denied where Keystone does not let this token delegate, Unauthenticated for a token that ended meanwhile.
    """
    trustee = await account.user_id()
    ends = datetime.now(UTC) + timedelta(days=account.config.trust_days)
    body = {
        "trust": {
            "trustor_user_id": user_id,
            "trustee_user_id": trustee,
            "project_id": project_id,
            "impersonation": True,
            "allow_redelegation": False,
            "roles": [{"name": role} for role in sorted(roles)],
            "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
    }

    def ask() -> str:
        plain = account.session_with(None)
        made = account.request(
            plain, "POST", "/OS-TRUST/trusts", json=body, headers={"X-Auth-Token": token}, authenticated=False
        )
        return check_trust_id(str(made["trust"]["id"]))

    try:
        return await account.run(ask)
    except Denied as refused:
        raise Denied(
            "this token cannot delegate to the service, which the job needs to go on after the token's end; log in "
            f"with a password, not with an application credential or a trust: {refused.message}"
        ) from refused
    except (NotFound, Conflict) as refused:  # of a role, as with those that a federated login brings along
        raise Denied(
            "this token's roles cannot be delegated to the service, which the job needs to go on after the token's end;"
            f" have them assigned to the user, or a group of it, in the project: {refused.message}"
        ) from refused


class Delegations:
    """What a coordinator does with trusts. Sessions are kept for a bounded number of them."""

    def __init__(self, account: ServiceAccount) -> None:
        self._account = account
        self._sessions: OrderedDict[str, session.Session] = OrderedDict()
        self._lock = threading.Lock()

    def _session(self, trust_id: str) -> session.Session:
        with self._lock:
            found = self._sessions.get(trust_id)
            if found is None:
                found = self._sessions[trust_id] = self._account.trust_session(check_trust_id(trust_id))
            self._sessions.move_to_end(trust_id)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
            return found

    def forget(self, trust_id: str) -> None:
        """Drop the token that we hold: somebody refused it."""
        with self._lock:
            self._sessions.pop(trust_id, None)

    def _access(self, trust_id: str) -> Any:
        """Blocking. Raises CredentialsLost when the trust does not work any more."""
        used = self._session(trust_id)
        auth: Any = used.auth
        try:
            with failures_of("Keystone"):
                access = auth.get_access(used)
                if access.will_expire_soon(FRESH_S):
                    auth.invalidate()
                    access = auth.get_access(used)
        except (Unauthenticated, Denied, NotFound) as refused:
            self.forget(trust_id)
            raise CredentialsLost(
                "the trust of this job works no more: it was deleted or has expired, or its owner is disabled or lost "
                f"a role; renew the migration's credentials ({refused.message})"
            ) from refused
        return access

    async def delegated(self, trust_id: str) -> Delegated:
        """A token for the agent that works for the trust's owner now. Raises CredentialsLost, Unavailable."""

        def ask() -> Delegated:
            access = self._access(trust_id)
            return Delegated(access.auth_token, access.expires.isoformat(), access.project_id, access.user_id)

        return await self._account.run(ask)

    async def connection_info(self, trust_id: str) -> dict[str, Any]:
        """What stands for the connection_info of an endpoint in the caller's own cloud."""
        granted = await self.delegated(trust_id)
        config = self._account.config
        info: dict[str, Any] = {
            "auth_url": config.auth_url,
            "token": granted.token,
            "token_expires_at": granted.expires_at,
            "project_id": granted.project_id,
        }
        if config.region_name:
            info["region_name"] = config.region_name
        return info

    async def secret(self, trust_id: str, secret: str) -> bytes:
        """The payload of a secret in Barbican, read as the trust's owner."""

        def ask() -> bytes:
            self._access(trust_id)
            return read_secret(
                self._session(trust_id), secret, self._account.config.region_name, self._account.config.interface
            )

        return await self._account.run(ask)

    async def remove(self, trust_id: str) -> None:
        """Delete a trust; an absent one is fine. Raises CredentialsLost where its owner cannot act any more: then
        nobody can use it either, but it stays.
        """

        def ask() -> None:
            try:
                self._account.request(self._account.session, "GET", f"/OS-TRUST/trusts/{check_trust_id(trust_id)}")
            except NotFound:
                return
            self._access(trust_id)
            try:
                self._account.request(self._session(trust_id), "DELETE", f"/OS-TRUST/trusts/{trust_id}")
            except NotFound:
                return

        try:
            await self._account.run(ask)
        finally:
            self.forget(trust_id)

    async def mine(self) -> list[str]:
        """Ids of all trusts for this account, whoever made them."""
        me = await self._account.user_id()

        def ask() -> list[str]:
            listed = self._account.request(self._account.session, "GET", f"/OS-TRUST/trusts?trustee_user_id={me}")
            return [str(trust["id"]) for trust in listed.get("trusts", [])[:MAX_TRUSTS]]

        return await self._account.run(ask)
