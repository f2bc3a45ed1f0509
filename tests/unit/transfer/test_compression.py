"""Whether compression pays: simulated links and data, with the arithmetic of one sending machine."""

from __future__ import annotations

import pytest

from coriolis.transfer.compression import LEVELS, MIN_RATIO, SAMPLE_BYTES, SAMPLE_EVERY_BYTES, Compression, Sample

MIB = 1 << 20
RAW_CORE = 1500.0 * MIB
"""Bytes that one core reads and hashes in a second."""
PACK_CORE = 400.0 * MIB


class Sending:
    """``lanes`` lanes on as many cores, a link of ``link`` bytes/s, data of the given ratio."""

    def __init__(self, compression: Compression, link: float, ratio: float, *, cores: int = 2, lanes: int = 2) -> None:
        self.compression, self.link, self.ratio, self.cores, self.lanes = compression, link, ratio, cores, lanes
        self.sent = 0.0
        self.levels: list[int] = []

    def second(self, *, limited: bool = False) -> None:
        level, sampled = self.compression.level, self.compression.level_for(int(self.sent)) > 0
        saves = self.ratio > 1.11  # less is sent as it is (``codec.data_frame``)
        ratio = self.ratio if level and saves else 1.0
        core = PACK_CORE if level else RAW_CORE
        rate = min(self.link * ratio, core * min(self.cores, self.lanes))
        work = rate / core
        unpacked = 0.0 if not (sampled and saves) else rate if level else min(rate, SAMPLE_BYTES)
        sample = Sample(
            elapsed_s=1.0,
            payload_bytes=int(rate),
            wire_bytes=int(rate / ratio),
            packed_bytes=int(unpacked / self.ratio),
            unpacked_bytes=int(unpacked),
            packing_s=unpacked / PACK_CORE,
            work_s=work,
            send_s=max(0.0, self.lanes - work),
        )
        self.sent += rate
        self.levels.append(self.compression.observe(sample, limited=limited, lanes=self.lanes))

    def run(self, seconds: int, *, limited: bool = False) -> int:
        for _ in range(seconds):
            self.second(limited=limited)
        return self.compression.level


def test_a_narrow_link_and_soft_data_are_compressed() -> None:
    sending = Sending(Compression(2), 20.0 * MIB, 3.0)
    assert sending.run(20) > 0


def test_a_limit_on_the_wire_counts_as_a_narrow_link() -> None:
    sending = Sending(Compression(2), 100.0 * MIB, 2.5)
    assert sending.run(20, limited=True) > 0


def test_a_link_that_outruns_the_processor_is_sent_raw() -> None:
    sending = Sending(Compression(2), 2000.0 * MIB, 3.0)
    assert sending.run(60) == 0
    assert not any(sending.levels)


def test_hard_data_is_not_compressed_for_long() -> None:
    sending = Sending(Compression(2), 20.0 * MIB, 1.0)
    assert sending.run(60) == 0
    assert sum(level > 0 for level in sending.levels) <= 6


def test_data_that_turns_hard_ends_compression_and_soft_data_begins_it_again() -> None:
    sending = Sending(Compression(2), 20.0 * MIB, 3.0)
    assert sending.run(20) > 0
    sending.ratio = 1.0
    assert sending.run(20) == 0
    sending.ratio = 3.0
    assert sending.run(400) > 0, "a sample finds out"


@pytest.mark.parametrize("cores", [1, 4])
def test_what_is_kept_beats_raw_by_a_clear_gain(cores: int) -> None:
    """Near the break-even point the decision does not swing: after some tries it stays off for long."""
    sending = Sending(Compression(cores), PACK_CORE * min(cores, 2) * 1.02, 3.0, cores=cores)
    sending.run(200)
    changes = sum(a != b for a, b in zip(sending.levels, sending.levels[1:], strict=False))
    assert changes <= 12


def test_samples_are_a_small_share_of_what_is_sent() -> None:
    compression = Compression(2)
    step = 2 * MIB
    levels = [compression.level_for(sent) for sent in range(0, 8 * SAMPLE_EVERY_BYTES, step)]
    assert levels[0] == LEVELS[0], "the first cells tell at once"
    assert 7 <= sum(level > 0 for level in levels) <= 18
    assert MIN_RATIO > 1


def test_a_local_link_is_not_compressed_even_when_lanes_wait_for_a_busy_peer() -> None:
    """Found by the bench on a loaded machine: compressing took three times as long as sending raw did."""
    compression = Compression(cores=4)
    # one second: 600 MiB sent by two lanes, 60% of their time in send; a sample packed 3:1 at 0.4 GiB/s a core
    payload, sampled = 600 << 20, 2 << 20
    sample = Sample(1.0, payload, payload - sampled + sampled // 3, sampled // 3, sampled, 0.005, 0.8, 1.2)
    for _ in range(20):
        assert compression.observe(sample, limited=False, lanes=2) == 0
