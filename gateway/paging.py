"""List parameters: ``limit``, ``marker``, ``sort_key``, ``sort_dir``, ``status``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from coriolis.errors import InvalidInput
from coriolis.ids import is_id

MAX_LIMIT = 1000
MAX_STATUS_CHARS = 40
SORT_KEYS = ("created_at", "id")
EXECUTION_STATUSES = frozenset(
    [
        "UNEXECUTED",
        "PENDING",
        "AWAITING_MINION_ALLOCATIONS",
        "RUNNING",
        "CANCELLING",
        "COMPLETED",
        "ERROR",
        "CANCELED",
        "CANCELED_FOR_DEBUGGING",
        "DEADLOCKED",
        "ERROR_ALLOCATING_MINIONS",
    ]
)
TASK_STATUSES = frozenset(
    [
        "SCHEDULED",
        "EXECUTE_ON_ERROR_ONLY",
        "PENDING",
        "STARTING",
        "RUNNING",
        "SYNCING",
        "CANCELLING",
        "CANCELLING_AFTER_COMPLETION",
        "COMPLETED",
        "ERROR",
        "UNSCHEDULED",
        "CANCELED",
        "FORCE_CANCELED",
        "CANCELED_AFTER_COMPLETION",
        "CANCELED_FOR_DEBUGGING",
        "STRANDED_AFTER_DEADLOCK",
        "FAILED_TO_SCHEDULE",
        "FAILED_TO_CANCEL",
    ]
)
COORDINATOR_STATUSES = frozenset({"RUNNING", "CANCELLING", "COMPLETED", "ERROR", "CANCELED"})
"""The ones a migration of ours can have; the others are accepted and match nothing."""


@dataclass(frozen=True, slots=True)
class Page:
    """``limit`` 1 to 1000; ``marker`` is the id of the last element of the page before, or empty."""

    limit: int = MAX_LIMIT
    marker: str = ""
    status: str = ""

    @property
    def matches_nothing(self) -> bool:
        return bool(self.status) and self.status not in COORDINATOR_STATUSES

    def next_link(self, url: str, last_id: str) -> str:
        """Where the following page is."""
        parameters = {"limit": str(self.limit), "marker": last_id, "status": self.status}
        return f"{url}?{urlencode({name: value for name, value in parameters.items() if value})}"


def read_page(query: QueryParams) -> Page:
    """Raises InvalidInput naming the parameter."""
    _check_order(query)
    return Page(_limit(query.get("limit")), _marker(query.get("marker")), _status(query.get("status")))


def _limit(text: str | None) -> int:
    if text is None or text == "":
        return MAX_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise InvalidInput("limit: must be a whole number above 0")
    return min(int(text), MAX_LIMIT)


def _marker(text: str | None) -> str:
    if not text:
        return ""
    if not is_id(text):
        raise InvalidInput("marker: must be the id of a migration")
    return text


def _status(text: str | None) -> str:
    if not text:
        return ""
    if text not in EXECUTION_STATUSES | TASK_STATUSES:
        known = ", ".join(sorted(EXECUTION_STATUSES))
        raise InvalidInput(f"status: {text[:MAX_STATUS_CHARS]!r} is unknown; known: {known}")
    return text


def _check_order(query: QueryParams) -> None:
    """Newest first is the only order served; a client that asks for it by name gets it."""
    keys = query.getlist("sort_key") + query.getlist("sort_keys")
    directions = query.getlist("sort_dir") + query.getlist("sort_dirs")
    if any(key not in SORT_KEYS for key in keys):
        raise InvalidInput(f"sort_key: migrations are sorted by {' and '.join(SORT_KEYS)} only")
    if any(direction != "desc" for direction in directions):
        raise InvalidInput("sort_dir: migrations are listed newest first, 'desc', only")
