"""Which nbdcopy counts over the long path, and what is to be reached there."""

from __future__ import annotations

import pytest

from bench.table import MIB, Sample, said_of
from bench.wan.goals import LEGS, Leg, best_setting, checks, fastest, legs, line_share, road_row, wan_row


def sample(copy_s: float) -> Sample:
    return Sample(copy_s, copy_s, 1.0, 1.0, MIB, MIB, 2 * MIB, 0)


def test_the_settings_that_promise_most_are_kept() -> None:
    assert best_setting({1: 40.0, 4: 21.0, 8: 20.0, 16: float("inf")}) == [8, 4]
    assert best_setting({1: 1870.0, 4: 470.0, 8: 221.0, 16: 113.0}) == [16]
    assert best_setting({1: float("inf")}) == [1]


def test_the_fastest_peer_counts() -> None:
    assert fastest({"a": [sample(3), sample(1), sample(3)], "b": [sample(2), sample(2), sample(9)]}) == "b"


def test_a_full_line_has_share_one() -> None:
    assert line_share(125_000_000, 1.0, 1000) == pytest.approx(1)


@pytest.mark.parametrize(
    ("leg", "ours", "said"),
    [
        (Leg("incompressible", 0.0, 125_000_000), 1.1, "met"),
        (Leg("incompressible", 0.0, 125_000_000), 1.25, "MISSED line share 0.80, goal ≥ 0.9"),
        (Leg("incompressible", 0.001, 125_000_000), 9.0, "met"),
        (Leg("realistic", 0.001, 125_000_000), 2.0, "met"),
        (Leg("realistic", 0.0, 125_000_000), 2.5, "MISSED speed 1.60, goal ≥ 2"),
    ],
)
def test_goals_depend_on_image_and_loss(leg: Leg, ours: float, said: str) -> None:
    row = wan_row(leg, "auto", "dialled", (50, 1000), "nbdcopy", [sample(ours)], [sample(4)])
    assert said_of(checks(row)) == said


def test_every_image_runs_with_and_without_loss() -> None:
    assert {(leg.image, leg.loss > 0) for leg in LEGS} == {
        (image, lossy) for image in ("incompressible", "realistic") for lossy in (False, True)
    }


def test_another_loss_takes_the_sizes_of_a_lossy_line() -> None:
    assert legs(["realistic"], [0.02]) == [Leg("realistic", 0.02, LEGS[3].size)]
    assert legs(["incompressible", "realistic"], [0.0, 0.001]) == list(LEGS)


def test_a_road_without_samples_did_not_work() -> None:
    assert road_row("relayed", "relay", "grpc", MIB, 1000, []).n == 0
    row = road_row("relayed", "relay", "grpc", 125_000_000, 1000, [sample(2), sample(2), sample(9)])
    assert (row.copy_s_median, row.line_share_median, row.n) == (2, 0.5, 3)
