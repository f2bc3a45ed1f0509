"""How people write bandwidth limits, for CLI and REST: ``200Mbit/s``, ``Mon-Fri 08:00-18:00 200Mbit/s``."""

from __future__ import annotations

import re
from decimal import Decimal

from coriolis.errors import InvalidInput
from coriolis.model.bandwidth import DAY_MINUTES, Rate, Window, check_rate

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
NO_LIMIT = "none"
MAX_TEXT_CHARS = 200
_BITS = 8
_UNITS: dict[str, int] = {  # in bits per second
    "Gbit": 10**9,
    "Mbit": 10**6,
    "GiB": _BITS << 30,
    "MiB": _BITS << 20,
    "kbit": 10**3,
    "KiB": _BITS << 10,
    "B": _BITS,
    "bit": 1,
    "kB": _BITS * 10**3,
    "MB": _BITS * 10**6,
    "GB": _BITS * 10**9,
}
"""In the order in which ``format_rate`` tries them."""
_RATE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(\w+)/s", re.ASCII)
_TIMES = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_HOW = "write 200Mbit/s, 25MB/s, 25MiB/s, 0 (paused) or none"


def parse_rate(text: str, field: str = "rate") -> Rate:
    """Bytes per second, rounded to whole ones; None for ``none``. Raises InvalidInput."""
    if text == NO_LIMIT:
        return None
    if text == "0":
        return 0
    found = _RATE.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise InvalidInput(f"{field}: not a rate; {_HOW}")
    exact = Decimal(found[1]) * _UNITS[found[2]] / _BITS
    rate = max(round(exact), 1) if exact else 0  # little is not a pause
    check_rate(rate, field)
    return rate


def format_rate(rate: Rate) -> str:
    """The inverse of ``parse_rate``, exact."""
    if rate is None:
        return NO_LIMIT
    if rate == 0:
        return "0"
    unit, size = next((unit, size) for unit, size in _UNITS.items() if rate * _BITS % size == 0)
    return f"{rate * _BITS // size}{unit}/s"


def parse_window(text: str, field: str = "calendar") -> Window:
    """``<days> <from>-<to> <rate>``; days like ``Mon-Fri``, ``Sat,Sun`` or ``daily``. Raises InvalidInput."""
    parts = text.split() if len(text) <= MAX_TEXT_CHARS else []
    if len(parts) != 3:
        raise InvalidInput(f"{field}: not a window; write e.g. 'Mon-Fri 08:00-18:00 200Mbit/s'")
    times = _TIMES.fullmatch(parts[1])
    hours = [int(group) for group in times.groups()] if times else []
    start, end = (_minutes(*hours[:2]), _minutes(*hours[2:])) if hours else (None, None)
    if start is None or end is None or start in (end, DAY_MINUTES):
        raise InvalidInput(f"{field}: not a time of day; write e.g. 08:00-18:00, 22:00-06:00 or 00:00-24:00")
    return Window(_parse_days(parts[0], field), start, end, parse_rate(parts[2], field))


def format_window(window: Window) -> str:
    """The inverse of ``parse_window``."""
    return f"{_format_days(window.days)} {_clock(window.start)}-{_clock(window.end)} {format_rate(window.rate)}"


def _minutes(hour: int, minute: int) -> int | None:
    if (hour < 24 and minute < 60) or (hour == 24 and minute == 0):
        return hour * 60 + minute
    return None


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _parse_days(text: str, field: str) -> tuple[int, ...]:
    if text.lower() == "daily":
        return tuple(range(7))
    known = {day.lower(): number for number, day in enumerate(DAYS)}
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in known or (dash and last not in known):
            raise InvalidInput(f"{field}: not days; write e.g. Mon-Fri, Sat,Sun or daily")
        begin = known[first]
        # Fri-Mon goes over the end of the week
        days.update((begin + step) % 7 for step in range((known[last or first] - begin) % 7 + 1))
    return tuple(sorted(days))


def _format_days(days: tuple[int, ...]) -> str:
    if len(set(days)) == len(DAYS):
        return "daily"
    runs: list[list[int]] = []
    for day in sorted(set(days)):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs)
