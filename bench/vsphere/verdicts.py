"""Ratios and goals. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

MIB = 1 << 20
OURS = "ours"
CURL = "curl, one process with four connections"
PROCESSES = "curl, a process for each of four connections"
DECODER = "curl piped into a plain decoder"
ZLIB = "zlib on one thread, from a file in memory"
INVENTORY_S, INVENTORY_MIB = 10.0, 200.0
GOALS: dict[str, dict[str, float | None]] = {
    "datastore": {CURL: 0.9, PROCESSES: None},
    "export": {DECODER: 1.0},
    "export-4": {ZLIB: 3.0},
}
"""By what is read, and by peer; None: shown and not judged."""


class Run(msgspec.Struct, frozen=True):
    """``bytes``: of the disks, holes included; all contestants count the same ones. ``rss``: of all processes."""

    seconds: float
    bytes: int
    rss: int = 0

    @property
    def mib_per_s(self) -> float:
        return self.bytes / MIB / self.seconds


class Row(msgspec.Struct, frozen=True):
    """One line of ``vsphere.json``: our speed divided by the peer's, taken within each round."""

    what: str
    peer: str
    ratio_median: float
    ratio_min: float
    ratio_max: float
    ours_mib_s: float
    peer_mib_s: float
    rss_mib: float
    goal: float | None
    n: int

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return "not judged"
        return f"{'met' if self.ratio_median >= self.goal else 'MISSED'} ({self.goal:g})"


def rows(what: str, rounds: Sequence[Mapping[str, Run]]) -> list[Row]:
    """One for each peer. ``rounds``: of ``OURS`` and every peer."""
    return [_row(what, peer, goal, rounds) for peer, goal in GOALS[what].items()]


def _row(what: str, peer: str, goal: float | None, rounds: Sequence[Mapping[str, Run]]) -> Row:
    ratios = [one[OURS].mib_per_s / one[peer].mib_per_s for one in rounds]
    return Row(
        what,
        peer,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(one[OURS].mib_per_s for one in rounds),
        statistics.median(one[peer].mib_per_s for one in rounds),
        max(one[OURS].rss for one in rounds) / MIB,
        goal,
        len(rounds),
    )


def inventory_verdict(seconds: float, rss: int) -> str:
    met = seconds <= INVENTORY_S and rss <= INVENTORY_MIB * MIB
    return f"{'met' if met else 'MISSED'} ({INVENTORY_S:.0f} s, {INVENTORY_MIB:.0f} MiB)"
