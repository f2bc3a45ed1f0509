"""Whether to compress, and how much: on where the link is the narrow place and the data gives way. No clock, no I/O.

A few cells are always sent compressed as samples. From their ratio and speed, and from the rate that the link takes,
follows what compression would bring; it is tried where that is a clear gain, measured, and dropped where it was none.
"""

from __future__ import annotations

import msgspec

LEVELS = (1, 3)
MIN_RATIO = 1.1
CLEAR_GAIN = 1.2
"""What is promised before compression is tried, and what must be measured to keep it is half of that."""
SEND_BOUND = 0.5
"""Lanes that wait on the wire for at least this share of their time are bound by it."""
SAMPLE_EVERY_BYTES = 512 << 20
SAMPLE_BYTES = 2 << 20
TRY_AFTER_S = 1.0
JUDGE_AFTER_S = 2.0
"""Sooner, raw cells that were on their way at the change would count as compressed ones."""
HOLD_S = 10.0
MAX_HOLD_S = 160.0


class Sample(msgspec.Struct, frozen=True):
    """What lanes did in one stretch of time. Seconds are summed over lanes; bytes before and after compression."""

    elapsed_s: float
    payload_bytes: int
    wire_bytes: int
    packed_bytes: int
    unpacked_bytes: int
    packing_s: float
    """Reading, hashing and compressing of the compressed cells."""
    work_s: float
    send_s: float


class Compression:
    """``level`` is what to send with now (0: raw). Feed ``observe`` about once a second."""

    def __init__(self, cores: int) -> None:
        self.level = 0
        self._cores = max(1, cores)
        self._sums = _no_sample()
        self._raw_rate = 0.0
        self._ratio = 0.0
        self._core_rate = 0.0
        self._hold_s = HOLD_S
        self._wait_s = 0.0
        self._sampled_at = 0

    def level_for(self, sent_bytes: int) -> int:
        """The level of the next batch, when so many bytes were handed out: now and then a sample."""
        since = sent_bytes - self._sampled_at
        if self.level or SAMPLE_BYTES <= since < SAMPLE_EVERY_BYTES:
            return self.level
        if since >= SAMPLE_EVERY_BYTES:
            self._sampled_at = sent_bytes
        return LEVELS[0]

    def observe(self, sample: Sample, *, limited: bool, lanes: int) -> int:
        """The level from now on. ``limited``: a bandwidth limit, which counts bytes on the wire, bounds the rate."""
        self._sums = _add(self._sums, sample)
        self._wait_s = max(0.0, self._wait_s - sample.elapsed_s)
        sums = self._sums
        if sums.elapsed_s < (JUDGE_AFTER_S if self.level else TRY_AFTER_S) or not sums.payload_bytes:
            return self.level
        self._sums = _no_sample()
        if sums.packed_bytes:
            self._ratio = sums.unpacked_bytes / sums.packed_bytes
            self._core_rate = sums.unpacked_bytes / max(sums.packing_s, 1e-6)
        elif not self.level:
            self._ratio = 0.0  # no sample gave way, or there was none: what is known is of other data
        rate = sums.payload_bytes / sums.elapsed_s
        if self.level:
            self._keep_or_drop(rate, sums, limited=limited)
        else:
            self._raw_rate = rate
            self._try(rate, sums, limited=limited, lanes=lanes)
        return self.level

    def _try(self, rate: float, sums: Sample, *, limited: bool, lanes: int) -> None:
        bound = limited or sums.send_s >= SEND_BOUND * (sums.send_s + sums.work_s)
        promised = min(rate * self._gain(sums, limited=limited), self._core_rate * min(self._cores, lanes))
        if not self._wait_s and bound and self._ratio >= MIN_RATIO and promised >= rate * CLEAR_GAIN:
            self.level = LEVELS[0]

    def _gain(self, sums: Sample, *, limited: bool) -> float:
        """How much sooner a lane would be done with a byte: less time on the wire, more for packing it."""
        raw_bytes = sums.payload_bytes - sums.unpacked_bytes
        if raw_bytes <= 0 or not self._ratio:
            return 0.0
        if limited:
            return self._ratio  # what is waited for is the limit, and that counts bytes on the wire
        send_s = sums.send_s / sums.wire_bytes
        raw_s = (sums.work_s - sums.packing_s) / raw_bytes + send_s
        return raw_s / (1 / self._core_rate + send_s / self._ratio)

    def _keep_or_drop(self, rate: float, sums: Sample, *, limited: bool) -> None:
        if self._ratio < MIN_RATIO or rate < self._raw_rate * (1 + (CLEAR_GAIN - 1) / 2):
            self.level = 0
            self._wait_s = self._hold_s
            self._hold_s = min(MAX_HOLD_S, self._hold_s * 2)
            return
        busy = sums.work_s / (sums.work_s + sums.send_s or 1.0)
        if limited or busy < 0.3:
            self.level = LEVELS[-1]
        elif busy > 0.7:
            self.level = LEVELS[0]
            # the cores are the narrow place now: raw may have become the faster way, so it is measured again
            if rate > self._core_rate * self._cores * 0.9:
                self._raw_rate = max(self._raw_rate, rate / CLEAR_GAIN)


def _no_sample() -> Sample:
    return Sample(0.0, 0, 0, 0, 0, 0.0, 0.0, 0.0)


def _add(left: Sample, right: Sample) -> Sample:
    names = Sample.__struct_fields__
    return Sample(*(getattr(left, name) + getattr(right, name) for name in names))
