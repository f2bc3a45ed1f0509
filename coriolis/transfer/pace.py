"""A token bucket whose rate changes while senders wait: pure, time comes from the caller."""

from __future__ import annotations

BURST_S = 0.25
"""Time's worth of bytes that an idle sender may send at once. A limit holds over any longer time."""
PAUSED_WAIT_S = 3600.0
"""What ``wait_s`` says at rate 0; ask again much sooner, for the rate may change."""


class Pace:
    """Turns on a road that carries ``rate`` bytes per second; None is no limit, 0 lets nobody go.

    ``take_turn`` deducts at once and may run into debt, so that a frame larger than the burst passes once it is paid
    for. Turns come in the order in which they were taken. ``now`` is monotonic seconds.
    """

    def __init__(self, rate: float | None = None) -> None:
        self._rate = rate
        self._earned = 0.0
        self._taken = 0.0
        self._at: float | None = None

    @property
    def rate(self) -> float | None:
        return self._rate

    def set_rate(self, rate: float | None, now: float) -> None:
        """From now on. What was taken before and still waits goes at the new rate."""
        self._earn(now)
        if self._rate is None or rate is None:
            # nothing is owed or saved from a time without a limit
            self._earned = self._taken
        self._rate = rate

    def take_turn(self, nbytes: int, now: float) -> float:
        """Deduct ``nbytes``; a ticket for ``wait_s``."""
        self._earn(now)
        self._taken += nbytes
        if self._rate is None:
            self._earned = self._taken
        return self._taken

    def wait_s(self, turn: float, now: float) -> float:
        """Seconds until the turn comes if the rate stays; 0 when it has come. Ask again every half second or so."""
        self._earn(now)
        missing = turn - self._earned
        # less than a byte is rounding of the sum, not debt
        if self._rate is None or missing < 1:
            return 0.0
        return missing / self._rate if self._rate > 0 else PAUSED_WAIT_S

    def _earn(self, now: float) -> None:
        past = max(0.0, now - self._at) if self._at is not None else 0.0
        self._at = now if self._at is None else max(now, self._at)
        if self._rate is not None:
            self._earned = min(self._earned + past * self._rate, self._taken + self._rate * BURST_S)
