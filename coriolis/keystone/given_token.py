"""keystoneauth with a token that the mesh gave: what a provider uses when connection_info holds ``token``.

The token is scoped by a trust, so Keystone neither rescopes nor shows it; catalog and project are asked with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from keystoneauth1 import access, exceptions, session
from keystoneauth1.identity.base import BaseIdentityPlugin

from coriolis.errors import CredentialsLost
from coriolis.keystone.bounded_http import bounded_session

TIMEOUT_S = 60.0
"""Of one request; the services behind it are slower than Keystone."""
ASK_AGAIN_S = 120
"""Before a token's end a new one is asked for."""


def given_session(
    info: Mapping[str, Any], renew: Callable[[], Mapping[str, Any]] | None, **options: Any
) -> session.Session:
    """A session for openstacksdk and the like; ``options`` of keystoneauth's Session, such as ``verify``.

    A 401 that it raises although the plugin asked anew is CredentialsLost: say so to the mesh, and the job waits.
    """
    return session.Session(
        auth=GivenToken(info, renew),
        session=bounded_session(),
        **{"timeout": TIMEOUT_S, "user_agent": "coriolis", **options},
    )


class GivenToken(BaseIdentityPlugin):
    """``info``: connection_info with ``auth_url``, ``token``, ``token_expires_at``, ``project_id``.

    ``renew`` gives it anew (blocking, from any thread); it may raise our errors, CredentialsLost among them.
    """

    MIN_TOKEN_LIFE_SECONDS = ASK_AGAIN_S

    def __init__(self, info: Mapping[str, Any], renew: Callable[[], Mapping[str, Any]] | None = None) -> None:
        super().__init__(auth_url=info["auth_url"], reauthenticate=renew is not None)
        self._identity_url = str(info["auth_url"]).rstrip("/")
        self._info: Mapping[str, Any] | None = info
        self._renew = renew
        self._guard = threading.Lock()

    def get_auth_ref(self, session: session.Session, **kwargs: Any) -> access.AccessInfoV3:
        """Raises CredentialsLost when the token is refused, what ``renew`` raises, and keystoneauth's exceptions."""
        with self._guard:
            info, self._info = self._info, None
        if info is None or self._ends_soon(info):
            if self._renew is None:
                raise exceptions.AuthorizationFailure("the token has ended and nobody gives another one")
            info = self._renew()
        url = f"{self._identity_url}/auth/catalog"
        headers = {"X-Auth-Token": info["token"], "Accept": "application/json"}
        try:
            answer = session.get(url, headers=headers, authenticated=False, log=False)
        except (exceptions.Unauthorized, exceptions.Forbidden, exceptions.NotFound) as refused:
            raise CredentialsLost("Keystone refuses the token that the job was given") from refused
        try:
            catalog = answer.json()["catalog"]
        except (ValueError, KeyError, TypeError) as broken:
            raise exceptions.InvalidResponse(response=answer) from broken
        token = {
            "methods": ["token"],
            "expires_at": info["token_expires_at"],
            "issued_at": datetime.now(UTC).isoformat(),
            "project": {"id": info["project_id"], "name": "", "domain": {"id": "", "name": ""}},
            "user": {"id": "", "name": "", "domain": {"id": "", "name": ""}},
            "roles": [],
            "catalog": catalog,
        }
        return access.AccessInfoV3(auth_token=info["token"], body={"token": token})

    @staticmethod
    def _ends_soon(info: Mapping[str, Any]) -> bool:
        ends = datetime.fromisoformat(info["token_expires_at"])
        return ends - datetime.now(UTC) < timedelta(seconds=1)

    def get_cache_id_elements(self) -> dict[str, str | None]:
        """None: it is never cached outside."""
        return {}
