"""Ratios, goals and verdicts of the bench."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.table import GIB, MIB, Mark, Sample, checks, compare, cost, expected_s, load_note, rounds, said_of, spread


def sample(copy_s: float, cpu_s: float = 1.0, rss: int = 100 * MIB, others: float = 0.0) -> Sample:
    return Sample(copy_s, copy_s + 1, cpu_s, cpu_s + 1, rss, rss // 2, 2 * rss, 0, others)


def test_contestants_take_turns() -> None:
    assert list(rounds("AB", 3)) == [(0, "A"), (0, "B"), (1, "A"), (1, "B"), (2, "A"), (2, "B")]


def test_ratios_are_taken_round_by_round() -> None:
    # a slow round hits both: the ratio of medians would hide that ours was twice as fast in each
    ours, theirs = [sample(1, 3), sample(10, 2), sample(2, 4)], [sample(2, 1), sample(20, 1), sample(4, 2)]
    row = compare("realistic", "grpc", "nbdcopy", True, ours, theirs)
    assert (row.speed_ratio_median, row.speed_ratio_min, row.speed_ratio_max) == (2, 2, 2)
    assert (row.cpu_ratio_median, row.rss_mib, row.n) == (2, 100, 3)


def test_samples_of_different_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare("realistic", "grpc", "nbdcopy", True, [sample(1)], [sample(1), sample(2)])


@given(st.lists(st.floats(0.1, 1e6), min_size=1))
def test_a_spread_holds_its_median(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.median <= found.high


@pytest.mark.parametrize(
    ("transport", "peer", "tls", "ours", "said"),
    [
        ("grpc", "nbdcopy", True, sample(1, 1.39), "met"),
        ("grpc", "nbdcopy", True, sample(2.2), "MISSED speed 0.91, goal ≥ 0.95"),
        ("grpc", "nbdcopy", True, sample(1, 1.5), "MISSED cpu 1.50, goal ≤ 1.4"),
        ("grpc", "nbdcopy", True, sample(1, rss=300 * MIB), "MISSED rss 300.00, goal ≤ 256"),
        ("grpc", "qemu-img", True, sample(1, 9), "met"),
        ("grpc", "qemu-img", True, sample(1.6, 9), "MISSED speed 1.25, goal ≥ 1.3"),
        ("direct", "nbdcopy", True, sample(1.9, 1.3), "MISSED speed 1.05, goal ≥ 1.1; MISSED cpu 1.30, goal ≤ 1.2"),
        ("grpc", "nbdcopy", False, sample(100, 100), "-"),
    ],
)
def test_verdicts_follow_the_goals(transport: str, peer: str, tls: bool, ours: Sample, said: str) -> None:
    row = compare("realistic", transport, peer, tls, [ours], [sample(2)])
    assert said_of(checks(row)) == said


def test_costs_are_per_gib_of_the_disk() -> None:
    found = cost("ours", 4 * GIB, [sample(2, 8), sample(4, 8), sample(8, 8)])
    assert (found.copy_s.median, found.gib_per_s, found.cpu_s_per_gib) == (4, 1, 2)
    assert (found.source_rss_mib, found.sink_rss_mib, found.total_rss_mib) == (100, 50, 200)


def test_the_note_says_when_others_worked_too() -> None:
    assert load_note(0.1, {"a": [sample(1, others=0.1)]}).startswith("quiet")
    assert load_note(0.1, {"a": [sample(1, others=2), sample(1, others=1)]}).startswith("loaded: others kept 1.50")


@pytest.mark.parametrize(
    ("before", "last", "seconds"),
    [
        # nothing in the first half, while it connected: only the second half tells the speed
        (Mark(10, 0), Mark(20, 100), 110),
        (Mark(10, 500), Mark(20, 1000), 20),
        (Mark(10, 0), Mark(20, 0), float("inf")),
    ],
)
def test_a_probe_looks_ahead(before: Mark, last: Mark, seconds: float) -> None:
    assert expected_s(before, last, 1000) == seconds
