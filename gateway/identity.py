"""The seam to whoever knows users and tokens: the embedded identity now, Keystone later."""

from __future__ import annotations

from dataclasses import dataclass
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


class TokenValidator(Protocol):
    """Validates tokens of requests."""

    async def validate(self, token: str) -> Caller:
        """Who the token speaks for; its project is never empty.

        Raises Unauthenticated for any other token, Unavailable when that cannot be decided now (never allow).
        """
        ...
