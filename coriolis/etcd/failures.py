"""What etcd's failures mean (texts and codes: etcd's api/v3rpc/rpctypes/error.go, seen with 3.4.23)."""

from __future__ import annotations

import grpc

from coriolis.errors import (
    ChangeLogLost,
    CoriolisError,
    InvalidInput,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from coriolis.rpc.status import to_error

Compacted = ChangeLogLost
"""History before the wanted revision is gone: list again, then watch from there. Never 'nothing changed'."""

_INTERRUPTIONS = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
# Refused before anything was done: the token expired, its member restarted, or users were changed meanwhile.
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_BAD_LOGIN = ("authentication failed", "invalid user ID or password")
_COMPACTED = "required revision has been compacted"
_NO_SPACE = "database space exceeded"


def is_interruption(failure: grpc.aio.AioRpcError) -> bool:
    """Whether the call may or may not have taken effect, and another member may answer."""
    return failure.code() in _INTERRUPTIONS


def is_stale_token(failure: grpc.aio.AioRpcError) -> bool:
    """Whether authenticating again would help."""
    return any(text in (failure.details() or "") for text in _STALE_TOKEN)


def to_etcd_error(failure: grpc.aio.AioRpcError) -> CoriolisError:
    """Our error for a refusal by etcd."""
    details = failure.details() or failure.code().name
    if any(text in details for text in _BAD_LOGIN):
        return Unauthenticated("etcd refused the user or the password")
    if failure.code() == grpc.StatusCode.OUT_OF_RANGE:
        return Compacted(details) if _COMPACTED in details else InvalidInput(details)
    if failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        if _NO_SPACE in details:
            return Unavailable("etcd's space quota is used up: compact, defragment and clear the alarm")
        return Throttled(details)
    if is_interruption(failure):
        return Unavailable(details)
    return to_error(failure)
