"""Who the caller is and whether the policy lets it: used by every route under ``/v1``."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader

from coriolis.errors import Denied, Unauthenticated
from gateway import policy
from gateway.backend import MeshBackend
from gateway.identity import Caller, TokenValidator

TOKEN_HEADER = APIKeyHeader(
    name="X-Auth-Token", scheme_name="token", description="From POST /v3/auth/tokens", auto_error=False
)
MAX_TOKEN_CHARS = 8192


async def authenticate(identity: TokenValidator, token: str | None) -> Caller:
    """Raises Unauthenticated. What is obviously no token never reaches the identity."""
    if not token or len(token) > MAX_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise Unauthenticated("no valid token came with the request")
    return await identity.validate(token)


class Permit:
    """Dependency that demands a policy rule and gives the Caller. Raises Denied."""

    def __init__(self, rule: str) -> None:
        assert rule in policy.RULES, f"no policy rule is named {rule}"
        self.rule = rule

    def __call__(self, request: Request, token: Annotated[str | None, Security(TOKEN_HEADER)] = None) -> Caller:
        caller: Caller = request.state.caller  # set by the edge, or the request would not have come here
        demand(caller, self.rule)
        return caller


def demand(caller: Caller, rule: str) -> None:
    """Raises Denied unless the caller's roles satisfy the rule."""
    if not policy.allows(rule, caller.roles):
        raise Denied(f"Policy doesn't allow {rule} to be performed.")


def permit(rule: str) -> Any:
    """``Depends(Permit(rule))``."""
    return Depends(Permit(rule))


def backend(request: Request) -> MeshBackend:
    """Dependency that gives the mesh."""
    found: MeshBackend = request.app.state.backend
    return found


Backend = Annotated[MeshBackend, Depends(backend)]
