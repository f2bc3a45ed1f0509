"""Our errors on the wire and back.

An error travels as its gRPC status, its message and trailing metadata: ``coriolis-error-code`` (the class),
``coriolis-retry-after`` (seconds) and ``coriolis-leader`` (host:port of the leader, for NotLeader).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import grpc

from coriolis.errors import (
    Conflict,
    CoriolisError,
    Corrupt,
    Denied,
    InvalidInput,
    NotFound,
    NotLeader,
    QuotaExceeded,
    TimedOut,
    Unauthenticated,
    Unavailable,
    Unsupported,
    from_code,
)

ERROR_CODE_KEY = "coriolis-error-code"
RETRY_AFTER_KEY = "coriolis-retry-after"
LEADER_KEY = "coriolis-leader"
MAX_RETRY_AFTER_S = 3600.0

_BY_STATUS: dict[grpc.StatusCode, type[CoriolisError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QuotaExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.DATA_LOSS: Corrupt,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    # Our servers name their error in the trailer, unexpected ones included. Without it these come from gRPC itself: a
    # stream that broke with its connection ("Internal error from Core"), which may work again on another one.
    grpc.StatusCode.INTERNAL: Unavailable,
    grpc.StatusCode.UNKNOWN: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


def status_of(error: CoriolisError) -> grpc.StatusCode:
    """The gRPC status that the error's class states."""
    return grpc.StatusCode[error.grpc_status]


def trailing_metadata(error: CoriolisError) -> tuple[tuple[str, str], ...]:
    """What travels beside status and message."""
    pairs = [(ERROR_CODE_KEY, error.code)]
    if error.retry_after_s is not None:
        pairs.append((RETRY_AFTER_KEY, f"{error.retry_after_s:.3f}"))
    if isinstance(error, NotLeader) and error.leader_address:
        pairs.append((LEADER_KEY, error.leader_address))
    return tuple(pairs)


def to_error(failure: grpc.aio.AioRpcError | grpc.RpcError) -> CoriolisError:
    """Our error for a failed call. A peer that is not ours, or gRPC itself, is mapped by status alone.

    Raise it ``from failure``.
    """
    assert isinstance(failure, grpc.Call | grpc.aio.AioRpcError), "gRPC's failures are calls"
    metadata = _first_values(failure.trailing_metadata() or ())
    message = failure.details() or f"the peer answered {failure.code().name}"
    code = metadata.get(ERROR_CODE_KEY)
    if code is None:
        return _BY_STATUS.get(failure.code(), CoriolisError)(message)
    if code == NotLeader.code:
        return NotLeader(message, leader_address=metadata.get(LEADER_KEY, ""))
    return from_code(code, message, retry_after_s=_seconds(metadata.get(RETRY_AFTER_KEY)))


def _first_values(metadata: Iterable[Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in metadata:
        values.setdefault(key, value if isinstance(value, str) else value.decode("utf-8", "replace"))
    return values


def _seconds(text: str | None) -> float | None:
    """A peer's number is input: anything but 0..3600 s is dropped or cut."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None
