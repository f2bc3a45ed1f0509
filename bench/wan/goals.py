"""Rows and goals of the long path. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from bench.images import Name
from bench.table import MIB, RSS_GOAL_MIB, Check, Sample, ratios, spread

LINE_SHARE_GOAL = 0.9
"""Of the line, incompressible image, no loss: bytes of the image; headers of TCP and IP take 3.5% of the line."""
REALISTIC_GOAL = 2.0
"""nbdcopy's time with its best setting / our time."""


class Leg(msgspec.Struct, frozen=True):
    """One setting of the link and one image on it. ``loss`` is a share of packets."""

    image: Name
    loss: float
    size: int


PROBE_SIZE = 2048 * MIB
"""nbdcopy hands out 128 MiB at a time to each of its connections: 16 of them need this much to be busy at all."""
LEGS = (
    Leg("incompressible", 0.0, 2048 * MIB),
    Leg("realistic", 0.0, 2048 * MIB),
    Leg("incompressible", 0.001, 1024 * MIB),
    Leg("realistic", 0.001, 2048 * MIB),
)
"""A run takes 10 to 30 seconds on a clean line, a minute on a lossy one."""


def legs(images: Sequence[str], losses: Sequence[float]) -> list[Leg]:
    """Those of ``images`` under each of ``losses``, with the sizes of LEGS for a clean or a lossy line."""
    return [
        msgspec.structs.replace(leg, loss=loss)
        for loss in losses
        for leg in LEGS
        if leg.image in images and (leg.loss > 0) == (loss > 0)
    ]


class WanRow(msgspec.Struct, frozen=True):
    """One line of ``latest-wan.json``. ``line_share_median``: image bits per second of our copy / rate of the line."""

    image: str
    transport: str
    path: str
    tls: bool
    loss: float
    rtt_ms: float
    rate_mbit: float
    peer: str
    speed_ratio_median: float
    speed_ratio_min: float
    speed_ratio_max: float
    line_share_median: float
    cpu_ratio_median: float
    rss_mib: float
    n: int


def line_share(size: int, copy_s: float, rate_mbit: float) -> float:
    return size * 8 / copy_s / (rate_mbit * 1e6)


def best_setting(expected: Mapping[int, float], keep: int = 2, within: float = 1.3) -> list[int]:
    """At most ``keep`` connection counts, best first: those whose expected seconds are ``within`` the best's."""
    order = sorted(expected, key=lambda connections: expected[connections])
    return [each for each in order[:keep] if each == order[0] or expected[each] <= within * expected[order[0]]]


def fastest(samples: Mapping[str, Sequence[Sample]]) -> str:
    """Name of the contestant with the least median time: the one that counts. Raises ValueError without any."""
    return min(samples, key=lambda name: statistics.median(s.copy_s for s in samples[name]))


def wan_row(
    leg: Leg,
    transport: str,
    path: str,
    link: tuple[float, float],
    peer: str,
    ours: Sequence[Sample],
    theirs: Sequence[Sample],
) -> WanRow:
    """``link``: (round trip in ms, rate in Mbit/s). Samples of the same rounds."""
    rtt_ms, rate_mbit = link
    speed = spread(ratios([s.copy_s for s in theirs], [s.copy_s for s in ours]))
    cpu = spread(ratios([s.cpu_s for s in ours], [s.cpu_s for s in theirs]))
    share = statistics.median(line_share(leg.size, s.copy_s, rate_mbit) for s in ours)
    return WanRow(
        image=leg.image,
        transport=transport,
        path=path,
        tls=True,
        loss=leg.loss,
        rtt_ms=rtt_ms,
        rate_mbit=rate_mbit,
        peer=peer,
        speed_ratio_median=round(speed.median, 3),
        speed_ratio_min=round(speed.low, 3),
        speed_ratio_max=round(speed.high, 3),
        line_share_median=round(share, 3),
        cpu_ratio_median=round(cpu.median, 3),
        rss_mib=round(max(max(s.source_rss, s.sink_rss) for s in ours) / MIB, 1),
        n=len(ours),
    )


def checks(row: WanRow) -> list[Check]:
    """The goals that apply to a row."""
    found = [Check("rss", row.rss_mib, RSS_GOAL_MIB, at_least=False)]
    if row.image == "incompressible" and row.loss == 0:
        found.insert(0, Check("line share", row.line_share_median, LINE_SHARE_GOAL, at_least=True))
    if row.image == "realistic":
        found.insert(0, Check("speed", row.speed_ratio_median, REALISTIC_GOAL, at_least=True))
    return found


class RoadRow(msgspec.Struct, frozen=True):
    """A pair that cannot simply be dialled. ``n`` 0: it did not work."""

    situation: str
    path: str
    transport: str
    copy_s_median: float
    line_share_median: float
    n: int


def road_row(
    situation: str, path: str, transport: str, size: int, rate_mbit: float, samples: Sequence[Sample]
) -> RoadRow:
    if not samples:
        return RoadRow(situation, path, transport, 0.0, 0.0, 0)
    copy_s = statistics.median(s.copy_s for s in samples)
    share = line_share(size, copy_s, rate_mbit)
    return RoadRow(situation, path, transport, round(copy_s, 3), round(share, 3), len(samples))
