"""The token bucket: whatever is asked, no span of time carries more than rate x time + burst + one frame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coriolis.transfer.pace import BURST_S, PAUSED_WAIT_S, Pace

MIB = 1 << 20


def take(pace: Pace, nbytes: int, now: float) -> float:
    """Seconds that a turn taken now has to wait."""
    return pace.wait_s(pace.take_turn(nbytes, now), now)


def send_all(pace: Pace, frames: list[int], now: float) -> list[tuple[float, int]]:
    """(moment, bytes) of one sender that waits for each of its turns."""
    sent = []
    for frame in frames:
        now += take(pace, frame, now)
        sent.append((now, frame))
    return sent


@given(st.floats(1000, 1e9), st.lists(st.integers(1, 4 * MIB), min_size=1, max_size=30), st.floats(0, 100))
def test_no_span_carries_more_than_the_rate(rate: float, frames: list[int], idle: float) -> None:
    pace = Pace(rate)
    take(pace, 0, 0.0)
    sent = send_all(pace, frames, idle)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            span = sent[last][0] - sent[first][0]
            carried = sum(frame for _, frame in sent[first + 1 : last + 1])
            assert carried <= rate * (span + BURST_S) * 1.001 + 2 * (last - first) + 2


@given(st.floats(1000, 1e9), st.integers(1, 50))
def test_a_busy_sender_gets_the_whole_rate(rate: float, count: int) -> None:
    sent = send_all(Pace(rate), [MIB] * count, 5.0)
    assert sent[-1][0] - 5.0 <= count * MIB / rate * 1.001


def test_without_a_limit_nobody_waits() -> None:
    pace = Pace()
    assert [take(pace, 100 * MIB, 0.0) for _ in range(10)] == [0.0] * 10


def test_a_frame_larger_than_the_burst_passes_once_it_is_paid_for() -> None:
    pace = Pace(1000)
    assert take(pace, 5000, 0.0) == 5.0
    assert take(pace, 1000, 0.0) == 6.0


def test_an_idle_time_saves_a_quarter_of_a_second() -> None:
    pace = Pace(1000)
    take(pace, 0, 0.0)
    assert take(pace, 250, 100.0) == 0.0
    assert take(pace, 250, 100.0) == 0.25


def test_who_waits_goes_at_the_new_rate() -> None:
    pace = Pace(1000)
    turn = pace.take_turn(10_000, 0.0)
    assert pace.wait_s(turn, 1.0) == 9.0
    pace.set_rate(9000, 1.0)
    assert pace.wait_s(turn, 1.0) == 1.0
    pace.set_rate(None, 1.5)
    assert pace.wait_s(turn, 1.5) == 0.0


def test_zero_pauses_until_another_rate_is_set() -> None:
    pace = Pace(0)
    turn = pace.take_turn(10, 0.0)
    assert pace.wait_s(turn, 1e6) == PAUSED_WAIT_S
    pace.set_rate(10, 1e6)
    assert pace.wait_s(turn, 1e6) == 1.0


def test_a_limit_after_none_owes_nothing_for_before() -> None:
    pace = Pace()
    take(pace, 100 * MIB, 0.0)
    pace.set_rate(1000, 1.0)
    assert take(pace, 1000, 1.0) == 1.0
