"""From samples to verdicts: order of runs, ratios, goals. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

MIB = 1 << 20
GIB = 1 << 30
RSS_GOAL_MIB = 256
BUSY_CORES = 0.5
"""From this many cores kept busy by others a run counts as loaded."""

SPEED_GOALS: dict[tuple[str, str, str], float] = {
    ("incompressible", "direct", "nbdcopy"): 1.2,
    ("incompressible", "grpc", "nbdcopy"): 1.0,
    ("incompressible", "grpc", "qemu-img"): 1.5,
    ("realistic", "direct", "nbdcopy"): 1.1,
    ("realistic", "grpc", "nbdcopy"): 0.95,
    ("realistic", "grpc", "qemu-img"): 1.3,
    ("mostly-empty", "direct", "nbdcopy"): 1.3,
    ("mostly-empty", "grpc", "nbdcopy"): 1.2,
    ("mostly-empty", "grpc", "qemu-img"): 1.3,
}
"""(image, transport, peer) -> peer's time / our time that is to be reached, TLS on both sides."""
CPU_GOALS = {"direct": 1.2, "grpc": 1.4}
"""transport -> our CPU seconds / nbdcopy's, at most."""

T = TypeVar("T")


class Sample(msgspec.Struct, frozen=True):
    """One copy of one image by one contestant. Seconds and bytes; README.md says what each begins and ends with."""

    copy_s: float
    whole_s: float
    cpu_s: float
    whole_cpu_s: float
    source_rss: int
    sink_rss: int
    total_rss: int
    """Peaks of all processes of both sides added, though they need not have been at the same moment."""
    allocated: int
    """Of the destination."""
    others: float = 0.0
    """Cores that were busy with something else meanwhile."""
    events: tuple[str, ...] = ()


class Mark(msgspec.Struct, frozen=True):
    """Bytes that were written ``at`` so many seconds after a start."""

    at: float
    written: int


def expected_s(before: Mark, last: Mark, total: int) -> float:
    """When ``total`` bytes will be written if it goes on as between the two marks; infinity if nothing moved."""
    rate = (last.written - before.written) / (last.at - before.at)
    if last.written >= total:
        return last.at
    return last.at + (total - last.written) / rate if rate > 0 else float("inf")


class Spread(msgspec.Struct, frozen=True):
    median: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True):
    """One line of ``latest.json``: ours over one transport against one peer. Ratios above 1: ours is faster, dearer."""

    image: str
    transport: str
    tls: bool
    peer: str
    speed_ratio_median: float
    speed_ratio_min: float
    speed_ratio_max: float
    cpu_ratio_median: float
    rss_mib: float
    n: int


def rounds(contestants: Sequence[T], count: int) -> Iterator[tuple[int, T]]:
    """(round, contestant): A B C A B C, so that what slows the machine down for a while hits all of them."""
    for number in range(count):
        for contestant in contestants:
            yield number, contestant


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round; a run that took no measurable time counts as a millisecond."""
    return [one / max(other, 1e-3) for one, other in zip(above, below, strict=True)]


def compare(image: str, transport: str, peer: str, tls: bool, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Row:
    """The row of samples that were taken in the same rounds."""
    speed = spread(ratios([s.copy_s for s in theirs], [s.copy_s for s in ours]))
    cpu = spread(ratios([s.cpu_s for s in ours], [s.cpu_s for s in theirs]))
    return Row(
        image=image,
        transport=transport,
        tls=tls,
        peer=peer,
        speed_ratio_median=round(speed.median, 3),
        speed_ratio_min=round(speed.low, 3),
        speed_ratio_max=round(speed.high, 3),
        cpu_ratio_median=round(cpu.median, 3),
        rss_mib=round(max(max(s.source_rss, s.sink_rss) for s in ours) / MIB, 1),
        n=len(ours),
    )


class Check(msgspec.Struct, frozen=True):
    """One goal: what was reached, what was wanted, and whether more or less is better."""

    what: str
    value: float
    goal: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def __str__(self) -> str:
        if self.met:
            return f"{self.what} {self.value:.2f}"
        return f"MISSED {self.what} {self.value:.2f}, goal {'≥' if self.at_least else '≤'} {self.goal:g}"


def checks(row: Row) -> list[Check]:
    """The goals that apply to a row; a peer without TLS is only shown, never judged."""
    found = []
    if not row.tls:
        return []
    goal = SPEED_GOALS.get((row.image, row.transport, row.peer))
    if goal is not None:
        found.append(Check("speed", row.speed_ratio_median, goal, at_least=True))
    if row.peer == "nbdcopy" and row.transport in CPU_GOALS:
        found.append(Check("cpu", row.cpu_ratio_median, CPU_GOALS[row.transport], at_least=False))
    found.append(Check("rss", row.rss_mib, RSS_GOAL_MIB, at_least=False))
    return found


def said_of(applying: Sequence[Check]) -> str:
    """``met``, or the goals that were missed with their numbers, or ``-`` where the issue sets none."""
    missed = [str(check) for check in applying if not check.met]
    if missed:
        return "; ".join(missed)
    return "met" if applying else "-"


class Cost(msgspec.Struct, frozen=True):
    """One contestant on one image, for people: GiB are of the disk's size, holes included."""

    contestant: str
    copy_s: Spread
    whole_s: float
    gib_per_s: float
    cpu_s_per_gib: float
    whole_cpu_s_per_gib: float
    source_rss_mib: float
    sink_rss_mib: float
    total_rss_mib: float
    allocated_mib: float


def cost(contestant: str, size: int, samples: Sequence[Sample]) -> Cost:
    gib = size / GIB
    copy = spread([s.copy_s for s in samples])
    return Cost(
        contestant=contestant,
        copy_s=copy,
        whole_s=statistics.median(s.whole_s for s in samples),
        gib_per_s=gib / copy.median,
        cpu_s_per_gib=statistics.median(s.cpu_s for s in samples) / gib,
        whole_cpu_s_per_gib=statistics.median(s.whole_cpu_s for s in samples) / gib,
        source_rss_mib=max(s.source_rss for s in samples) / MIB,
        sink_rss_mib=max(s.sink_rss for s in samples) / MIB,
        total_rss_mib=max(s.total_rss for s in samples) / MIB,
        allocated_mib=statistics.median(s.allocated for s in samples) / MIB,
    )


def load_note(load_before: float, samples: Mapping[str, Sequence[Sample]]) -> str:
    """``quiet`` or ``loaded`` with the numbers behind it."""
    busy = [sample.others for each in samples.values() for sample in each]
    others = statistics.median(busy) if busy else 0.0
    word = "loaded" if others > BUSY_CORES else "quiet"
    return (
        f"{word}: others kept {others:.2f} cores busy (median; at most {max(busy, default=0):.2f}), load average "
        + (f"{load_before:.2f} before the first run")
    )
