"""Ratios and goals. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

MIB = 1 << 20
CURL_GOAL = 0.9
DECODER_GOAL = 1.0
DISKS_GOAL = 3.0
INVENTORY_S, INVENTORY_MIB = 10.0, 200.0
GOALS = {"datastore": CURL_GOAL, "export": DECODER_GOAL, "export-4": DISKS_GOAL}
PEERS = {
    "datastore": "curl, one process for each connection",
    "export": "curl piped into a plain decoder",
    "export-4": "zlib on one thread, from a file in memory",
}


class Run(msgspec.Struct, frozen=True):
    """``bytes``: of the disk, holes included; both contestants count the same ones."""

    seconds: float
    bytes: int
    rss: int = 0
    cpu_s: float = 0.0

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
    goal: float

    @property
    def met(self) -> bool:
        return self.ratio_median >= self.goal


def row(what: str, rounds: Sequence[Mapping[str, Run]]) -> Row:
    """``rounds``: of ``ours`` and ``peer``."""
    ratios = [one["ours"].mib_per_s / one["peer"].mib_per_s for one in rounds]
    return Row(
        what,
        PEERS[what],
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(one["ours"].mib_per_s for one in rounds),
        statistics.median(one["peer"].mib_per_s for one in rounds),
        max(one["ours"].rss for one in rounds) / MIB,
        GOALS[what],
    )
