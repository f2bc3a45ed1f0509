"""Whom agents are asked to dial, how often, and how long an answer counts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.coordinator.paths import Measured
from coriolis.coordinator.reachability import ANSWER_S, MAX_TARGETS, REFRESH_S, VALID_S, WINDOW_S, Reachability
from tests.unit.coordinator.test_paths import peer

YES = Measured(reachable=True, rtt_ms=1.0)
A, B = peer("a"), peer("b")


def asked(rounds: dict[str, list[object]]) -> set[tuple[str, str]]:
    return {(dialler, target.agent_id) for dialler, targets in rounds.items() for target in targets}  # type: ignore[attr-defined]


def test_pairs_are_asked_for_once_and_again_when_old() -> None:
    reach = Reachability()
    assert asked(reach.due([A, B], 0.0)) == {("a", "b"), ("b", "a")}
    assert reach.due([A, B], 1.0) == {}
    reach.record("a", "b", "x:1", YES, 2.0)
    reach.record("b", "a", "x:1", YES, 2.0)
    assert reach.due([A, B], REFRESH_S) == {}
    assert asked(reach.due([A, B], 3.0 + REFRESH_S)) == {("a", "b"), ("b", "a")}


def test_an_answer_that_never_comes_is_asked_for_again() -> None:
    reach = Reachability()
    reach.due([A, B], 0.0)
    assert asked(reach.due([A, B], ANSWER_S + 1)) == {("a", "b"), ("b", "a")}


def test_answers_count_for_a_while_and_for_their_address_only() -> None:
    reach = Reachability()
    reach.record("a", "b", "x:1", YES, 0.0)
    assert reach.known(A, B, 1.0) == YES
    assert reach.known(A, B, 100.0, within_s=90.0) is None
    assert reach.known(A, B, VALID_S + 1) is None
    assert reach.known(A, peer("b", address="y:2"), 1.0) is None


def test_neighbours_are_asked_about_relays_only_and_projects_stay_apart() -> None:
    near, relay = peer("n", site="a"), peer("r", site="a", relay=True)
    assert asked(Reachability().due([A, near, relay], 0.0)) == {("a", "r"), ("n", "r")}
    p, q = peer("p", projects=("p",)), peer("q", projects=("q",))
    assert Reachability().due([p, q], 0.0) == {}
    hidden = peer("h", address="")
    assert asked(Reachability().due([A, hidden], 0.0)) == {("h", "a")}


def test_what_a_placement_waits_for_comes_first() -> None:
    crowd = [peer(f"m{number:03}") for number in range(40)]
    reach = Reachability()
    last = crowd[-1]
    assert reach.want([(crowd[0], last)], 0.0, 60.0)
    assert reach.due(crowd, 0.0)["m000"][0] == last
    reach.record("m000", "m039", "x:1", YES, 1.0)
    assert not reach.want([(crowd[0], last)], 2.0, 60.0)
    assert not reach.want([(crowd[0], crowd[0])], 2.0, 60.0)
    assert reach.want([(crowd[0], last)], 9.0, 5.0), "too old for this one"


@settings(max_examples=30)
@given(st.integers(2, 60), st.lists(st.floats(0.1, 20.0), min_size=1, max_size=20))
def test_no_agent_is_asked_for_more_than_its_share(count: int, steps: list[float]) -> None:
    crowd = [peer(f"m{number:03}") for number in range(count)]
    reach, now = Reachability(), 0.0
    sent: dict[str, list[float]] = {}
    for step in steps:
        now += step
        for dialler, targets in reach.due(crowd, now).items():
            sent.setdefault(dialler, []).extend([now] * len(targets))
            assert len({target.agent_id for target in targets} - {dialler}) == len(targets)
    for times in sent.values():
        for at in times:
            assert sum(at - WINDOW_S < other <= at for other in times) <= MAX_TARGETS
