"""Time behind a seam, so that tests and the simulator own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds for deadlines; wall time only for display, certificates and tokens."""

    def monotonic(self) -> float: ...

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)


def wire_time(moment: datetime) -> str:
    """Naive UTC ISO with exactly 6 microsecond digits, as the REST API publishes it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
