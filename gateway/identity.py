"""The seam to whoever knows users and tokens: the embedded identity, or Keystone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the validated token says; nothing of it comes from the request itself."""

    user_id: str
    user_name: str
    project_id: str
    roles: frozenset[str]
    expires_at: datetime
    token: str = field(default="", repr=False)
    """Keystone's, to make trusts with; empty with the embedded identity."""


class TokenValidator(Protocol):
    """Validates tokens of requests."""

    async def validate(self, token: str) -> Caller:
        """Who the token speaks for; its project is never empty.

        Raises Unauthenticated for any other token, Unavailable when that cannot be decided now (never allow).
        """
        ...


class Delegator(Protocol):
    """Lets the mesh act for a caller after the token's end."""

    async def delegate(self, caller: Caller) -> str:
        """The id of a new trust of the caller, with all roles of the token in its project.

        Raises Denied where the token may not delegate, Unavailable when that cannot be asked now.
        """
        ...
