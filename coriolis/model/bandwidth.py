"""Bandwidth limits: what they apply to, their weekly calendar, and the rate in force at an instant.

Rates are whole bytes per second on the wire. ``None`` is no limit; 0 is a pause: nothing new is sent, what is on its
way arrives.
"""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from coriolis.errors import InvalidInput

MAX_LIMITS = 1000
"""Of one mesh, all scopes together."""
MAX_WINDOWS = 32
MAX_NAME_CHARS = 255
MAX_ZONE_CHARS = 64
MIN_RATE = 1000
"""The smallest limit but 0: below it a single frame would take a quarter of an hour."""
MAX_RATE = 10**12
DAY_MINUTES = 24 * 60
HORIZON_DAYS = 15
"""A weekly window may fall into the hour that a change to summer time leaves out; two weeks always hold one."""

Rate = int | None


class ScopeKind(enum.StrEnum):
    AGENT = "agent"
    LINK = "link"
    JOB = "job"


class Scope(msgspec.Struct, frozen=True, order=True):
    """``name``: an agent's id, ``<origin site>/<destination site>``, or a job's id; ``project_id`` only for a job."""

    kind: ScopeKind
    name: str
    project_id: str = ""


class Window(msgspec.Struct, frozen=True):
    """Every week on ``days`` (0 is Monday) from ``start`` to before ``end``, minutes of the day on the zone's clock.

    ``end <= start`` passes midnight: it belongs to the day on which it begins. ``end`` may be 24:00.
    """

    days: tuple[int, ...]
    start: int
    end: int
    rate: Rate

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether the window covers this minute on the zone's clock."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        yesterday = (weekday - 1) % 7
        return (weekday in self.days and minute >= self.start) or (yesterday in self.days and minute < self.end)


class Limit(msgspec.Struct, frozen=True):
    """``rate`` counts outside of all windows; inside of several, the lowest of theirs does."""

    scope: Scope
    rate: Rate
    windows: tuple[Window, ...] = ()
    time_zone: str = "UTC"
    created_at: str = ""
    updated_at: str = ""


class Change(msgspec.Struct, frozen=True):
    """The moment (UTC) from which another rate is in force."""

    at: datetime
    rate: Rate


def check_rate(rate: Rate, field: str) -> None:
    """Raises InvalidInput for a rate that no limit may have."""
    if rate is not None and rate != 0 and not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidInput(f"{field}: a rate is none, 0 (paused), or between {MIN_RATE} and {MAX_RATE} bytes/s")


def check(limit: Limit) -> Limit:
    """The limit itself. Raises InvalidInput that names the wrong field."""
    check_name(limit.scope)
    check_rate(limit.rate, "rate")
    if len(limit.windows) > MAX_WINDOWS:
        raise InvalidInput(f"calendar: {len(limit.windows)} windows; at most {MAX_WINDOWS} are possible")
    for number, window in enumerate(limit.windows):
        field = f"calendar.{number}"
        check_rate(window.rate, field)
        if not window.days or any(day not in range(7) for day in window.days):
            raise InvalidInput(f"{field}: a window needs days from Mon to Sun")
        if window.start not in range(DAY_MINUTES) or window.end not in range(DAY_MINUTES + 1):
            raise InvalidInput(f"{field}: a window lies between 00:00 and 24:00")
        if window.start == window.end:
            raise InvalidInput(f"{field}: a window ends when it begins; a whole day is 00:00-24:00")
    zone(limit.time_zone)
    return limit


def check_name(scope: Scope) -> None:
    """Raises InvalidInput for a name that no agent, site pair or job can have."""
    parts = scope.name.split("/") if scope.kind is ScopeKind.LINK else [scope.name]
    if scope.kind is ScopeKind.LINK and len(parts) != 2:
        raise InvalidInput("a link is named <origin site>/<destination site>")
    for part in parts:
        if not 0 < len(part) <= MAX_NAME_CHARS or not part.isprintable():
            raise InvalidInput(f"the name of a limit's {scope.kind} has 1 to {MAX_NAME_CHARS} printable characters")


@lru_cache(maxsize=MAX_LIMITS)
def zone(name: str) -> ZoneInfo:
    """The IANA time zone ``name``. Raises InvalidInput for an unknown one."""
    try:
        if 0 < len(name) <= MAX_ZONE_CHARS and name.isascii() and name.isprintable():
            return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # what zoneinfo raises for odd names, directories and absent zones
        pass
    raise InvalidInput("time_zone: not a known IANA time zone such as Europe/Paris or UTC")


def rate_at(limit: Limit, instant: datetime) -> Rate:
    """The rate in force at ``instant`` (aware). An hour that the clock repeats is covered both times."""
    if not limit.windows:
        return limit.rate
    local = instant.astimezone(zone(limit.time_zone))
    weekday, minute = local.weekday(), local.hour * 60 + local.minute
    holding = [window.rate for window in limit.windows if window.holds(weekday, minute)]
    if not holding:
        return limit.rate
    return min((rate for rate in holding if rate is not None), default=None)


def next_change(limit: Limit, instant: datetime) -> Change | None:
    """When the rate next differs from that at ``instant``, and to what; None when it never does."""
    if not limit.windows:
        return None
    now = rate_at(limit, instant)
    today = instant.astimezone(zone(limit.time_zone)).date()
    for ahead in range(-1, HORIZON_DAYS):
        for moment in sorted(_boundaries(limit, today + timedelta(days=ahead))):
            if moment > instant and (rate := rate_at(limit, moment)) != now:
                return Change(moment, rate)
    return None


def _boundaries(limit: Limit, day: date) -> set[datetime]:
    """Every moment (UTC) of the zone's ``day`` at which a window may begin or end."""
    where = zone(limit.time_zone)
    midnight = datetime(day.year, day.month, day.day, tzinfo=where)
    minutes = {minute for window in limit.windows for minute in (window.start, window.end)}
    walls = [midnight + timedelta(minutes=minute) for minute in minutes]
    # a minute that the clock shows twice is two moments; one that it leaves out is none, and the jump is the boundary
    moments = {wall.replace(fold=fold).astimezone(UTC) for wall in walls for fold in (0, 1)}
    low, high = midnight.astimezone(UTC), (midnight + timedelta(days=1)).astimezone(UTC)
    before = low.astimezone(where).utcoffset()
    if high.astimezone(where).utcoffset() != before:
        moments.add(_jump(where, low, high))
    return moments


def _jump(where: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """The second between the two at which the zone's clock is put forward or back."""
    before = low.astimezone(where).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if middle.astimezone(where).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high
