"""Speed of links from what transfers report."""

from __future__ import annotations

import pytest

from coriolis.coordinator.link_speed import BEST_S, QUIET_S, LinkSpeeds

LINK = ("x", "y")
MIB = 1 << 20


def feed(speeds: LinkSpeeds, rate: int, begin: int, seconds: int, disk: str = "d") -> None:
    for second in range(seconds):
        speeds.report(LINK, "t", disk, rate * (second + 1), float(begin + second))


def test_a_steady_transfer_shows_its_rate() -> None:
    speeds = LinkSpeeds()
    feed(speeds, 10 * MIB, 100, 20)
    assert speeds.now(LINK, 120.0) == pytest.approx(10 * MIB, rel=0.2)
    assert speeds.best(LINK, 120.0) == pytest.approx(10 * MIB, rel=0.2)
    assert speeds.now(("y", "x"), 120.0) == 0


def test_disks_add_up() -> None:
    speeds = LinkSpeeds()
    for second in range(20):
        for disk in ("d", "e", "f"):
            speeds.report(LINK, "t", disk, MIB * (second + 1), 100.0 + second)
    assert speeds.now(LINK, 120.0) == pytest.approx(3 * MIB, rel=0.2)


def test_a_quiet_link_is_at_zero_and_its_best_stays_for_an_hour() -> None:
    speeds = LinkSpeeds()
    feed(speeds, 10 * MIB, 100, 20)
    assert speeds.now(LINK, 121.0 + QUIET_S) == 0
    # a slow transfer later: the pause does not count as slowness, the best is the earlier one
    feed(speeds, MIB, 1000, 20, "other")
    assert speeds.now(LINK, 1020.0) == pytest.approx(MIB, rel=0.2)
    assert speeds.best(LINK, 1020.0) == pytest.approx(10 * MIB, rel=0.2)
    assert speeds.best(LINK, 130.0 + BEST_S) == pytest.approx(MIB, rel=0.2)
    assert speeds.best(LINK, 1100.0 + BEST_S) == 0


def test_a_new_attempt_counts_from_zero() -> None:
    speeds = LinkSpeeds()
    feed(speeds, 10 * MIB, 100, 10)
    feed(speeds, 10 * MIB, 110, 10)
    assert speeds.now(LINK, 120.0) == pytest.approx(10 * MIB, rel=0.2)


def test_a_very_short_transfer_leaves_a_trace() -> None:
    speeds = LinkSpeeds()
    speeds.report(LINK, "t", "d", 8 * MIB, 100.0)
    assert speeds.best(LINK, 101.0) == pytest.approx(4 * MIB)
