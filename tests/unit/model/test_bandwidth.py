"""Limits and their calendar, checked against a walk through every minute of a week around changes of the clock."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import InvalidInput
from coriolis.model.bandwidth import (
    DAY_MINUTES,
    MAX_RATE,
    MAX_WINDOWS,
    MIN_RATE,
    Limit,
    Rate,
    Scope,
    ScopeKind,
    Window,
    check,
    check_rate,
    next_change,
    rate_at,
    zone,
)
from coriolis.model.bandwidth_text import format_rate, format_window, parse_rate, parse_window

SCOPE = Scope(ScopeKind.AGENT, "a")
RATES = st.one_of(st.none(), st.just(0), st.integers(MIN_RATE, MAX_RATE))
ZONES = ("UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana")
WEEKDAYS = (0, 1, 2, 3, 4)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    days = draw(st.sets(st.integers(0, 6), min_size=1))
    start = draw(st.integers(0, DAY_MINUTES - 1))
    end = draw(st.integers(0, DAY_MINUTES).filter(lambda minute: minute != start))
    return Window(tuple(sorted(days)), start, end, draw(RATES))


LIMITS = st.builds(Limit, st.just(SCOPE), RATES, st.lists(windows(), max_size=4).map(tuple), st.sampled_from(ZONES))
INSTANTS = st.one_of(
    st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)),  # noqa: DTZ001  # hypothesis adds the zone
    # the nights in which Paris, Havana and Lord Howe change their clocks
    *(
        st.datetimes(datetime(*day), datetime(*day) + timedelta(days=2))  # noqa: DTZ001
        for day in ((2026, 3, 28), (2026, 10, 24), (2026, 3, 7), (2026, 10, 31), (2026, 4, 4), (2026, 10, 3))
    ),
).map(lambda moment: moment.replace(tzinfo=UTC, second=0, microsecond=0))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(RATES)
def test_a_rate_is_printed_as_it_is_read(rate: Rate) -> None:
    assert parse_rate(format_rate(rate)) == rate


@given(windows())
def test_a_window_is_printed_as_it_is_read(window: Window) -> None:
    assert parse_window(format_window(window)) == window


@given(st.text(max_size=40))
def test_any_text_is_a_limit_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        check_rate(parse_rate(text), "rate")
    with contextlib.suppress(InvalidInput):
        check(Limit(SCOPE, None, (parse_window(text),)))


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("200Mbit/s", 25_000_000, "200Mbit/s"),
        ("25MB/s", 25_000_000, "200Mbit/s"),
        ("25MiB/s", 26_214_400, "25MiB/s"),
        ("1.5 Gbit/s", 187_500_000, "1500Mbit/s"),
        ("none", None, "none"),
        ("0", 0, "0"),
    ],
)
def test_rates_as_people_write_them(text: str, rate: Rate, shown: str) -> None:
    assert parse_rate(text) == rate
    assert format_rate(rate) == shown


@pytest.mark.parametrize("text", ["", "200", "200Mb/s", "200 mbit/s", "-1MB/s", "1bit/s", "2000GB/s", "1e3MB/s", "nan"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Mon 08:00-18:00",
        "Mon-Fri 8-18 1MB/s",
        "Xyz 08:00-18:00 1MB/s",
        "Mon 08:00-08:00 1MB/s",
        "Mon 24:00-25:00 1MB/s",
    ],
)
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="calendar"):
        parse_window(text)


def test_days_go_over_the_end_of_the_week() -> None:
    assert parse_window("Fri-Mon,Wed 22:00-06:00 none") == Window((0, 2, 4, 5, 6), 22 * 60, 6 * 60, None)
    assert format_window(Window((0, 2, 4, 5, 6), 22 * 60, 6 * 60, None)) == "Mon,Wed,Fri-Sun 22:00-06:00 none"
    assert parse_window("daily 00:00-24:00 0").days == tuple(range(7))


def test_office_hours_follow_the_zones_clock_through_summer_time() -> None:
    office = Limit(SCOPE, None, (parse_window("Mon-Fri 08:00-18:00 200Mbit/s"),), "Europe/Paris")
    assert rate_at(office, at("2026-03-27T06:59")) is None  # Friday, winter time
    assert rate_at(office, at("2026-03-27T07:00")) == 25_000_000
    assert rate_at(office, at("2026-03-30T06:00")) == 25_000_000  # Monday, summer time
    assert rate_at(office, at("2026-03-30T16:00")) is None
    change = next_change(office, at("2026-03-27T20:00"))
    assert change is not None
    assert (change.at, change.rate) == (at("2026-03-30T06:00"), 25_000_000)


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = Limit(SCOPE, 0, (parse_window("Fri 22:00-06:00 none"),))
    assert rate_at(night, at("2026-03-27T21:59")) == 0
    assert rate_at(night, at("2026-03-27T22:00")) is None
    assert rate_at(night, at("2026-03-28T05:59")) is None
    assert rate_at(night, at("2026-03-28T06:00")) == 0
    assert rate_at(night, at("2026-03-27T05:00")) == 0


def test_of_several_windows_the_lowest_rate_counts() -> None:
    limit = Limit(
        SCOPE, 5000, (Window(WEEKDAYS, 0, 600, 4000), Window(WEEKDAYS, 300, 900, 2000), Window(WEEKDAYS, 0, 60, None))
    )
    monday = at("2026-03-30T00:30")
    assert rate_at(limit, monday) == 4000
    assert rate_at(limit, monday + timedelta(hours=5)) == 2000
    assert rate_at(limit, monday + timedelta(hours=20)) == 5000


@given(LIMITS, INSTANTS)
def test_the_next_change_is_the_first_minute_with_another_rate(limit: Limit, instant: datetime) -> None:
    now = rate_at(limit, instant)
    change = next_change(limit, instant)
    end = change.at if change is not None else instant + timedelta(days=8)
    assert end > instant
    moment = instant
    while moment < end:
        assert rate_at(limit, moment) == now, moment
        moment += timedelta(minutes=10)
    assert rate_at(limit, end - timedelta(seconds=1)) == now
    if change is not None:
        assert rate_at(limit, change.at) == change.rate != now


def test_both_hours_that_the_clock_shows_twice_are_covered() -> None:
    limit = Limit(SCOPE, None, (parse_window("Sun 02:30-02:40 1MB/s"),), "Europe/Paris")
    first = next_change(limit, at("2026-10-25T00:00"))
    assert first is not None
    assert first.at == at("2026-10-25T00:30")
    again = next_change(limit, at("2026-10-25T00:45"))
    assert again is not None
    assert again.at == at("2026-10-25T01:30")
    # and in spring, when there is no 02:30, the week after has it
    skipped = next_change(limit, at("2026-03-29T00:00"))
    assert skipped is not None
    assert skipped.at == at("2026-04-05T00:30")


@pytest.mark.parametrize(
    ("limit", "field"),
    [
        (Limit(SCOPE, 1), "rate"),
        (Limit(SCOPE, MAX_RATE + 1), "rate"),
        (Limit(SCOPE, None, (Window((), 0, 1, None),)), "calendar.0"),
        (Limit(SCOPE, None, (Window((7,), 0, 1, None),)), "calendar.0"),
        (Limit(SCOPE, None, (Window((0,), 0, 1441, None),)), "calendar.0"),
        (Limit(SCOPE, None, (Window((0,), 5, 5, None),)), "calendar.0"),
        (Limit(SCOPE, None, (Window((0,), 0, 1, 3),)), "calendar.0"),
        (Limit(SCOPE, None, (Window((0,), 0, 1, None),) * (MAX_WINDOWS + 1)), "calendar"),
        (Limit(SCOPE, None, (), "Mars/Olympus"), "time_zone"),
        (Limit(SCOPE, None, (), "../../etc/passwd"), "time_zone"),
        (Limit(SCOPE, None, (), "Europe"), "time_zone"),
        (Limit(Scope(ScopeKind.LINK, "paris"), None), "link"),
        (Limit(Scope(ScopeKind.LINK, "paris/"), None), "link"),
        (Limit(Scope(ScopeKind.AGENT, ""), None), "agent"),
    ],
)
def test_what_is_wrong_is_named(limit: Limit, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        check(limit)


def test_zones_are_known() -> None:
    for name in ZONES:
        assert zone(name).key == name
