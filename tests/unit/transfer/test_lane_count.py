"""How many lanes: simulated paths where more lanes help, do not help, or only help up to a point."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.transfer.lane_count import (
    LONG_PATH_S,
    MAX_HOLD_S,
    MAX_LANES,
    MEASURE_S,
    MIDDLE_PATH_S,
    MIN_LANES,
    SETTLE_S,
    LaneCount,
    first_lanes,
)

MIB = 1 << 20
LAN_S, WAN_S = 0.0003, 0.05


class Path:
    """A path whose rate depends on the number of lanes; seconds pass as it is asked."""

    def __init__(self, count: LaneCount, rate: Callable[[int], float]) -> None:
        self.count, self.rate = count, rate
        self.now = self.done = 0.0
        self.seen: list[tuple[float, int]] = []

    def run(self, seconds: float, *, limited: bool = False, step: float = 0.5) -> int:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.done += self.rate(self.count.lanes) * step
            self.seen.append((self.now, self.count.observe(self.now, int(self.done), limited=limited)))
        return self.count.lanes


@pytest.mark.parametrize(
    ("rtt_s", "lanes"),
    [(0.0, MIN_LANES), (LAN_S, MIN_LANES), (MIDDLE_PATH_S, 4), (LONG_PATH_S, 16), (WAN_S, 16)],
)
def test_a_path_begins_with_what_its_length_needs(rtt_s: float, lanes: int) -> None:
    assert first_lanes(rtt_s) == lanes == LaneCount(rtt_s).lanes
    assert first_lanes(rtt_s, 3) == min(3, lanes)
    assert first_lanes(rtt_s, 0) == 1


def test_a_lan_that_the_first_lanes_fill_comes_back_to_them() -> None:
    path = Path(LaneCount(LAN_S), lambda lanes: 1000.0 * MIB)
    assert path.run(30) == MIN_LANES
    assert max(lanes for _, lanes in path.seen) == 2 * MIN_LANES, "one step was tried"
    tries = sum(lanes > before for (_, before), (_, lanes) in zip(path.seen, path.seen[1:], strict=False))
    path.run(600)
    more = sum(lanes > before for (_, before), (_, lanes) in zip(path.seen, path.seen[1:], strict=False)) - tries
    assert more <= 5, "each failed step is tried again half as often"


def test_a_path_that_gives_each_lane_its_share_gets_all_lanes_and_no_more() -> None:
    path = Path(LaneCount(WAN_S), lambda lanes: 4.0 * MIB * lanes)
    assert path.run(20) == MAX_LANES
    assert path.run(300) == MAX_LANES


def test_growth_ends_where_it_stops_to_help() -> None:
    path = Path(LaneCount(LAN_S), lambda lanes: 50.0 * MIB * min(lanes, 8))
    path.run(60)
    settled = [lanes for now, lanes in path.seen if now > 30]
    enough = next(lanes for lanes in (MIN_LANES << step for step in range(9)) if lanes >= 8)
    assert settled.count(enough) > len(settled) * 0.8


def test_nothing_is_learnt_while_something_else_is_the_limit() -> None:
    path = Path(LaneCount(WAN_S), lambda lanes: 4.0 * MIB * lanes)
    assert path.run(120, limited=True) == 16
    path.run(SETTLE_S + MEASURE_S - 1)
    assert path.count.lanes == 16, "a measurement begins anew after it"
    assert path.run(20) == MAX_LANES


def test_a_path_that_becomes_wider_is_found_out_within_the_longest_hold() -> None:
    path = Path(LaneCount(LAN_S), lambda lanes: 100.0 * MIB)
    path.run(1000)
    path.rate = lambda lanes: 100.0 * MIB * lanes
    assert path.run(MAX_HOLD_S + 60) > MIN_LANES


@given(
    rtt_s=st.floats(0, 1),
    most=st.integers(1, 40),
    rates=st.lists(st.tuples(st.floats(0, 2**32), st.booleans()), max_size=60),
)
def test_whatever_is_measured_the_bounds_hold(rtt_s: float, most: int, rates: list[tuple[float, bool]]) -> None:
    count = LaneCount(rtt_s, most)
    now = done = 0.0
    for rate, limited in rates:
        now, done = now + 1, done + rate
        assert 1 <= count.observe(now, int(done), limited=limited) <= most


def test_on_a_short_path_no_lane_is_added_for_a_while() -> None:
    count = LaneCount(0.0005)
    for second in range(8):
        assert count.observe(float(second), second * 10**9, limited=False) == MIN_LANES
    wanted = [count.observe(float(second), second * 10**9, limited=False) for second in range(8, 40)]
    assert max(wanted) > MIN_LANES, "it is tried in the end"
