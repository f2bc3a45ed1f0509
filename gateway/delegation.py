"""When a request needs a trust of its caller, and making it."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from coriolis.errors import Unsupported
from gateway.identity import Caller, Delegator

BY_REFERENCE = frozenset({"secret_id", "secret_ref"})
OF_THE_CALLERS_CLOUD = frozenset({"region_name"})
"""A connection_info with nothing but these holds no credentials: it means the cloud that gave the caller its token."""


def needs_trust(connection_info: dict[str, Any] | None) -> bool:
    """Whether the mesh will act as the caller for this endpoint: to read its secret, or in its cloud."""
    members = set(connection_info or {})
    return bool(members & BY_REFERENCE) or members <= OF_THE_CALLERS_CLOUD


async def trust_for(request: Request, caller: Caller, *connection_infos: dict[str, Any] | None) -> str:
    """The id of a new trust when one of the endpoints needs it; empty without Keystone, or when none does.

    A trust whose request fails is removed by the leading coordinator, which finds no job for it.
    """
    delegator: Delegator | None = request.app.state.delegator
    if delegator is None or not any(map(needs_trust, connection_infos)):
        return ""
    return await delegator.delegate(caller)


async def new_trust(request: Request, caller: Caller) -> str:
    """Raises Unsupported without Keystone."""
    delegator: Delegator | None = request.app.state.delegator
    if delegator is None:
        raise Unsupported("this gateway has an identity of its own; only with Keystone are credentials delegated")
    return await delegator.delegate(caller)
