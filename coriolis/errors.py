"""The one error tree. Only these leave a provider, a servicer or a task.

Every class states how a caller should react: ``retryable`` (the same call may succeed later),
``grpc_status`` (canonical code name) and ``http_status`` (of the public REST API).
``docs/errors.md`` holds the same table for operators; a test walks both.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE_CHARS = 1024


class CoriolisError(Exception):
    """Base class. ``message`` is one sentence an operator can act on, cut at 1,024 characters."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    grpc_status: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.message = message[:MAX_MESSAGE_CHARS]
        self.retry_after_s = retry_after_s
        super().__init__(self.message)


class InvalidInput(CoriolisError):
    """The request is wrong in itself; the message names the field."""

    code = "invalid_input"
    grpc_status = "INVALID_ARGUMENT"
    http_status = 400


class Unauthenticated(CoriolisError):
    """No valid token or certificate came with the call."""

    code = "unauthenticated"
    grpc_status = "UNAUTHENTICATED"
    http_status = 401


class Denied(CoriolisError):
    """The caller, or our credentials at a cloud, may not do this."""

    code = "denied"
    grpc_status = "PERMISSION_DENIED"
    http_status = 403


class NotFound(CoriolisError):
    """The thing does not exist, or belongs to another project."""

    code = "not_found"
    grpc_status = "NOT_FOUND"
    http_status = 404


class Conflict(CoriolisError):
    """The thing is in a state, or has a name, that forbids the operation."""

    code = "conflict"
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409


class QuotaExceeded(CoriolisError):
    """A limit of a cloud, a disk or of ours is reached; the message states the sizes."""

    code = "quota_exceeded"
    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 413


class Throttled(CoriolisError):
    """Asked too often; ``retry_after_s`` says how long to wait."""

    code = "throttled"
    retryable = True
    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 429


class Unavailable(CoriolisError):
    """A peer cannot be reached now.

    With ``outcome_unknown`` the call may have taken effect: look before repeating it.
    """

    outcome_unknown: bool = False
    code = "unavailable"
    retryable = True
    grpc_status = "UNAVAILABLE"
    http_status = 503


class NotLeader(Unavailable):
    """The coordinator asked does not lead; ask ``leader_address``, or again later when it is empty."""

    code = "not_leader"

    def __init__(self, message: str, *, leader_address: str = "") -> None:
        super().__init__(message)
        self.leader_address = leader_address


class StaleEpoch(CoriolisError):
    """A coordinator acted after it was replaced (fence 1 and 2)."""

    code = "stale_epoch"
    grpc_status = "ABORTED"
    http_status = 503


class StaleGeneration(CoriolisError):
    """An agent acted for an assignment that was replaced (fence 3)."""

    code = "stale_generation"
    grpc_status = "ABORTED"
    http_status = 409


class CredentialsLost(CoriolisError):
    """What a job was given to act for its owner works no more; it waits until it is given new credentials."""

    code = "credentials_lost"
    retryable = True
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409


class Unsupported(CoriolisError):
    """The provider, format or guest cannot do this at all."""

    code = "unsupported"
    grpc_status = "UNIMPLEMENTED"
    http_status = 405


class Corrupt(CoriolisError):
    """Data failed a digest, a format rule or a journal check; nothing was written."""

    code = "corrupt"
    grpc_status = "DATA_LOSS"


class HostileImage(Corrupt):
    """An image was refused before any tool opened it: it refers to other files, or lies about itself."""

    code = "hostile_image"
    grpc_status = "INVALID_ARGUMENT"
    http_status = 400


class TimedOut(CoriolisError):
    """No progress within a stated bound."""

    code = "timed_out"
    retryable = True
    grpc_status = "DEADLINE_EXCEEDED"
    http_status = 504


class Cancelled(CoriolisError):
    """The caller asked to stop."""

    code = "cancelled"
    grpc_status = "CANCELLED"
    http_status = 409


class TaskDied(CoriolisError):
    """A task's process ended without a result (killed, crashed, out of memory)."""

    code = "task_died"
    retryable = True
    grpc_status = "ABORTED"


class ChangeLogLost(CoriolisError):
    """The origin cannot say what changed since the base; compare digests instead. Never treat as 'nothing changed'."""

    code = "change_log_lost"
    grpc_status = "FAILED_PRECONDITION"


def _walk(cls: type[CoriolisError]) -> list[type[CoriolisError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _walk(child))]


def all_errors() -> list[type[CoriolisError]]:
    """Every class of the tree, base first."""
    return _walk(CoriolisError)


def from_code(code: str, message: str, *, retry_after_s: float | None = None) -> CoriolisError:
    """The error that ``code`` names; an unknown code (a newer peer) becomes the base class."""
    for cls in all_errors():
        if cls.code == code:
            error = cls(message)
            error.retry_after_s = retry_after_s
            return error
    return CoriolisError(message, retry_after_s=retry_after_s)
