"""B5: the shipped arithmetic, and that no illegal set is accepted."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.coordinator.timeouts import Timeouts, broken_rules, validate
from coriolis.errors import InvalidInput
from coriolis.etcd import client, endpoints

PAGE = Path(__file__).parents[3] / "docs" / "design" / "timeouts.md"


def test_the_shipped_defaults_are_legal_and_are_those_of_the_page() -> None:
    validate(Timeouts())
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == dataclasses.asdict(Timeouts())


def test_the_arithmetic_of_the_page_holds() -> None:
    text = PAGE.read_text()
    shipped = Timeouts()
    sums = re.findall(r"`([^`]+?) (<=|<) ([^`]+)` \(([\d.]+) [≤<] ([\d.]+)\)", text)
    assert len(sums) == 4
    for left, relation, right, left_value, right_value in sums:
        values = [_value(side, shipped) for side in (left, right)]
        assert values == pytest.approx([float(left_value), float(right_value)])
        assert values[0] <= values[1]
        assert f"{left} {relation} {right}" in _all_rules()
    assert shipped.takeover_s() == 10 + 2 + 8 + 5
    assert (endpoints.KEEPALIVE_S, endpoints.KEEPALIVE_TIMEOUT_S, client.CALL_TIMEOUT_S) == (6, 2, 5.0)


def _value(expression: str, timeouts: Timeouts) -> float:
    """A sum of products of numbers and fields."""
    fields = dataclasses.asdict(timeouts)
    total = 0.0
    for term in expression.split("+"):
        product = 1.0
        for factor in term.split("*"):
            product *= fields.get(factor.strip()) or float(factor)
        total += product
    return total


def _all_rules() -> str:
    impossible = Timeouts(**dict.fromkeys(dataclasses.asdict(Timeouts()), float("nan")))  # type: ignore[arg-type]
    return "; ".join(broken_rules(impossible))


_SECONDS = st.one_of(st.floats(-1, 60), st.sampled_from([0.0, 3.0, 5.0, 6.0, 10.0, 25.0]), st.floats())
_TTLS = st.integers(-1, 60)


@settings(max_examples=1000, deadline=None)
@given(
    st.builds(
        Timeouts,
        leader_ttl_s=_TTLS,
        leader_keepalive_s=_SECONDS,
        leader_step_down_s=_SECONDS,
        leader_write_timeout_s=_SECONDS,
        agent_ttl_s=_TTLS,
        agent_keepalive_s=_SECONDS,
        takeover_bound_s=_SECONDS,
    )
)
def test_an_accepted_set_leaves_no_moment_with_two_writers(t: Timeouts) -> None:
    if broken_rules(t):
        with pytest.raises(InvalidInput):
            validate(t)
        return
    validate(t)
    last_write_ends = t.leader_step_down_s + t.leader_write_timeout_s
    # (a write time-out may be so small that adding it changes nothing)
    assert 0 < t.leader_keepalive_s < t.leader_step_down_s <= last_write_ends < t.leader_ttl_s
    assert t.leader_keepalive_s + t.leader_keepalive_s <= t.leader_step_down_s
    assert 0 < t.agent_keepalive_s < t.agent_ttl_s / 2
    assert t.leader_ttl_s < t.takeover_bound_s


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"leader_step_down_s": 5.0}, "2 * leader_keepalive_s <= leader_step_down_s"),
        ({"leader_step_down_s": 9.0}, "leader_step_down_s + leader_write_timeout_s <= 0.99 * leader_ttl_s"),
        ({"agent_ttl_s": 10}, "2 * agent_keepalive_s < agent_ttl_s"),
        ({"leader_ttl_s": 11}, "leader_ttl_s + 15 <= takeover_bound_s"),
    ],
)
def test_the_refusal_names_the_rule(changed: dict[str, float], rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(dataclasses.replace(Timeouts(), **changed))
    assert rule in caught.value.message
