"""How many lanes a disk uses: few on a short path, more where more lanes measurably help. No clock, no I/O.

A single TCP connection is capped by its buffers on a long path and by loss on a bad one, so only the number of
connections helps there; on a LAN a third lane fills the cores that two leave idle while they wait for each other, and
a fourth only costs CPU time (``docs/design/data-plane.md``).
"""

from __future__ import annotations

import msgspec

MIN_LANES = 3
MAX_LANES = 32
LONG_PATH_S = 0.020
MIDDLE_PATH_S = 0.004
SETTLE_S = 1.0
"""New lanes are in slow start; what they carry at first says nothing."""
MEASURE_S = 2.0
HOLD_S = 30.0
"""After a step that did not help, the next one waits this long, and twice as long each time."""
FIRST_HOLD_S = 10.0
MAX_HOLD_S = 480.0
GAIN = 1.15
"""A step is kept when it brings 15% more."""


def first_lanes(rtt_s: float, most: int = MAX_LANES) -> int:
    """Where to begin on a path of this round-trip time."""
    wanted = 16 if rtt_s >= LONG_PATH_S else 4 if rtt_s >= MIDDLE_PATH_S else MIN_LANES
    return max(1, min(wanted, most))


class _Sample(msgspec.Struct, frozen=True):
    at_s: float
    bytes_done: int


class LaneCount:
    """Feed ``observe`` about once a second; it answers how many lanes there should be."""

    def __init__(self, rtt_s: float, most: int = MAX_LANES) -> None:
        self.lanes = first_lanes(rtt_s, most)
        self._most = most
        self._since_s: float | None = None
        self._start: _Sample | None = None
        self._before: tuple[int, float] | None = None  # lanes and rate that a running step is compared with
        self._hold_s = HOLD_S
        # on a short path these lanes are nearly always enough, and most disks are done before more could help
        self._held_until_s: float | None = None if rtt_s < MIDDLE_PATH_S else 0.0

    def observe(self, now_s: float, bytes_done: int, *, limited: bool) -> int:
        """``bytes_done``: that arrived so far. ``limited``: something else than the path bounds the rate now (a
        bandwidth limit, a slow origin), so that nothing can be learnt."""
        if limited:
            self._restart(None)
            return self.lanes
        if self._since_s is None:
            self._restart(now_s)
        assert self._since_s is not None
        if now_s - self._since_s < SETTLE_S:
            return self.lanes
        if self._start is None:
            self._start = _Sample(now_s, bytes_done)
            return self.lanes
        elapsed = now_s - self._start.at_s
        if elapsed < MEASURE_S:
            return self.lanes
        self._decide(now_s, (bytes_done - self._start.bytes_done) / elapsed)
        return self.lanes

    def _decide(self, now_s: float, rate: float) -> None:
        if self._before is not None:
            lanes, before = self._before
            self._before = None
            if rate < before * GAIN:
                self.lanes = lanes
                self._held_until_s = now_s + self._hold_s
                self._hold_s = min(MAX_HOLD_S, self._hold_s * 2)
                self._restart(now_s)
                return
        if self._held_until_s is None:
            self._held_until_s = now_s + FIRST_HOLD_S
        if now_s >= self._held_until_s and self.lanes < self._most:
            self._before = (self.lanes, rate)
            self.lanes = min(self._most, self.lanes * 2)
        self._restart(now_s)

    def _restart(self, now_s: float | None) -> None:
        self._since_s, self._start = now_s, None
        if now_s is None:
            self._before = None
