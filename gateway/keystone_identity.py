"""Keystone behind the seam of ``identity``: tokens are asked about there, remembered for a minute at most.

Loaded only with ``auth = "keystone"``; needs the extra ``openstack``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from coriolis.clock import Clock, SystemClock
from coriolis.errors import CoriolisError, Denied, InvalidInput, NotFound, Unauthenticated, Unavailable
from coriolis.keystone.service_account import ServiceAccount, own_account_refused
from coriolis.keystone.trusts import make_trust
from gateway.identity import Caller

log = structlog.get_logger(__name__)

VALID_S = 60.0
"""A token that was revoked works no longer than this; counted from before it was asked about."""
REFUSED_S = 10.0
"""Garbage is not asked about again for so long."""
MAX_TOKENS = 10_000
"""Remembered, the valid and the refused ones each."""
MAX_ROLES = 100
MAX_TEXT_CHARS = 255


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: float


class KeystoneIdentity:
    """A TokenValidator and a Delegator."""

    def __init__(self, account: ServiceAccount, *, clock: Clock | None = None) -> None:
        self._account = account
        self._clock = clock or SystemClock()
        self._valid: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller]] = {}

    @property
    def url(self) -> str:
        """Where tokens are given out."""
        return self._account.config.auth_url

    async def validate(self, token: str) -> Caller:
        """See TokenValidator. Many requests with one new token ask once."""
        key = hashlib.sha256(token.encode()).digest()  # a dump of our memory shows no old tokens
        now = self._clock.monotonic()
        known = self._valid.get(key)
        if known is not None:
            if now < known.until and self._clock.now() < known.caller.expires_at:
                return known.caller
            del self._valid[key]
        if self._refused.get(key, 0.0) > now:
            raise Unauthenticated("the token was refused a moment ago")
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key, token, now), name="validate-token")
            asking.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(asking)

    def _asked(self, key: bytes, done: asyncio.Task[Caller]) -> None:
        del self._asking[key]
        if not done.cancelled():
            done.exception()  # whoever still waits has it; nobody may

    async def _ask(self, key: bytes, token: str, began: float) -> Caller:
        try:
            said = await self._account.run(lambda: self._look_up(token))
            caller = caller_of(said, token, self._clock.now())
        except Unauthenticated:
            _remember(self._refused, key, began + REFUSED_S)
            raise
        except CoriolisError as failed:
            log.warning("token not validated", reason=failed.message)
            raise
        _remember(self._valid, key, _Known(caller, began + VALID_S))
        return caller

    def _look_up(self, token: str) -> Any:
        """Blocking. Our own token is renewed by keystoneauth when it has ended."""
        try:
            return self._account.request(
                self._account.session, "GET", "/auth/tokens?nocatalog", headers={"X-Subject-Token": token}
            )
        except (NotFound, InvalidInput) as unknown:
            raise Unauthenticated("Keystone does not know the token") from unknown
        except (Unauthenticated, Denied) as refused:
            raise own_account_refused(refused.message) from refused

    async def delegate(self, caller: Caller) -> str:
        """See Delegator."""
        return await make_trust(
            self._account,
            token=caller.token,
            user_id=caller.user_id,
            project_id=caller.project_id,
            roles=caller.roles,
        )

    def close(self) -> None:
        self._account.close()


def caller_of(said: Any, token: str, now: datetime) -> Caller:
    """Who a validated token speaks for. Raises Unauthenticated unless it is scoped to a project and has not ended,
    Unavailable when Keystone's answer is none.
    """
    try:
        body = said["token"]
        project = body.get("project")
        if project is None or body.get("is_domain"):
            raise Unauthenticated("the token is not scoped to a project")
        ends = datetime.fromisoformat(body["expires_at"])
        roles = frozenset(str(role["name"])[:MAX_TEXT_CHARS] for role in body.get("roles", [])[:MAX_ROLES])
        caller = Caller(
            user_id=str(body["user"]["id"])[:MAX_TEXT_CHARS],
            user_name=str(body["user"].get("name", ""))[:MAX_TEXT_CHARS],
            project_id=str(project["id"])[:MAX_TEXT_CHARS],
            roles=roles,
            expires_at=ends if ends.tzinfo else ends.replace(tzinfo=UTC),
            token=token,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as broken:
        raise Unavailable("Keystone described a token in a way that nobody understands") from broken
    if caller.expires_at <= now:
        raise Unauthenticated("the token has ended")
    if not caller.project_id or not caller.user_id:
        raise Unavailable("Keystone described a token without project or user")
    return caller


def _remember(where: OrderedDict[bytes, Any], key: bytes, what: Any) -> None:
    where[key] = what
    where.move_to_end(key)
    while len(where) > MAX_TOKENS:
        where.popitem(last=False)
