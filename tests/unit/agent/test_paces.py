"""What a task's child makes of the rates it is told, and that a sender waits for them."""

from __future__ import annotations

from coriolis.agent.child_protocol import Rates, decode_for_child, encode_line
from coriolis.agent.paces import HOLD_RATE, Paces


def test_without_a_word_nothing_is_limited() -> None:
    paces = Paces()
    paces.begin(None, 0.0)
    assert paces.of_disk("a").rate is None
    assert paces.of_disk("a") is paces.of_disk("a")


def test_the_assignment_gives_the_first_rates() -> None:
    paces = Paces()
    paces.begin({"unlimited": False, "disks": {"a": 5.0}}, 0.0)
    assert paces.of_disk("a").rate == 5.0
    assert paces.of_disk("unknown").rate == HOLD_RATE, "it holds back until it is named"
    open_road = Paces()
    open_road.begin({"unlimited": True, "disks": {}}, 0.0)
    assert open_road.of_disk("a").rate is None


def test_what_is_told_changes_the_paces_in_use() -> None:
    paces = Paces()
    a, b = paces.of_disk("a"), paces.of_disk("b")
    paces.tell({"a": 5.0, "b": 7.0}, 1.0, unlimited=False)
    assert (a.rate, b.rate) == (5.0, 7.0)
    paces.tell({"b": 0.0}, 2.0, unlimited=False)
    assert (a.rate, b.rate) == (5.0, 0.0), "who is not named keeps what it had"
    paces.tell({}, 3.0, unlimited=True)
    assert (a.rate, b.rate) == (None, None)


def test_rates_travel_as_a_line() -> None:
    rates = Rates({"vda": 1234.5}, unlimited=False)
    assert decode_for_child(encode_line(rates)) == rates
