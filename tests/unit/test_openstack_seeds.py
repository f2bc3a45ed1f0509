"""The fifty seeds of the OpenStack kill tests strike everywhere, in every way."""

from __future__ import annotations

from collections import Counter

from tests.fault.openstack_seeds import CASES, Moment, Victim, seed_of

FIFTY = [seed_of(number) for number in range(50)]


def test_every_request_is_struck_twice_in_different_ways() -> None:
    assert dict.fromkeys(CASES, 2).items() <= Counter(seed.case for seed in FIFTY[: 2 * len(CASES)]).items()
    assert len({(seed.case, seed.moment, seed.victim) for seed in FIFTY}) == 50


def test_everybody_dies_at_every_moment() -> None:
    met = Counter((seed.moment, seed.victim) for seed in FIFTY)
    assert set(met) == {(moment, victim) for moment in Moment for victim in Victim}


def test_a_seed_is_always_the_same() -> None:
    assert seed_of(17) == seed_of(17)
