"""Order of the runs, rows of ``convert.json``, goals. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from bench.table import MIB, Check

Way = Literal["fast", "full", "v2v"]
WAYS: tuple[Way, ...] = ("fast", "full", "v2v")
TOOLS: dict[Way, str] = {"fast": "coriolis", "full": "coriolis", "v2v": "virt-v2v-in-place"}

TIME_GOAL = 0.2
"""Of virt-v2v-in-place's time, at most."""
READ_GOAL_MIB = 64
WRITTEN_GOAL_MIB = 8


class Sample(msgspec.Struct, frozen=True):
    """One conversion. Bytes read of the guest's disks and data written to them; ranges of zeroes do not count.

    ``others``: cores that were busy with something else meanwhile. ``said``: events, or the end of the tool's log.
    """

    seconds: float
    read: int
    written: int
    others: float = 0.0
    said: tuple[str, ...] = ()


class Boot(msgspec.Struct, frozen=True):
    """Whether the login prompt came on virtio, after how long, and if not, what the console said last."""

    reached: bool
    seconds: float
    console: str = ""


class Row(msgspec.Struct, frozen=True):
    """One line of ``convert.json``. Seconds are the median, MiB the most of all runs; ``boots`` None: not tried."""

    guest: str
    way: str
    tool: str
    seconds: float
    read_mib: float
    written_mib: float
    boots: bool | None


def order(ways: Sequence[Way], count: int) -> list[Way]:
    """``count`` runs of the fast way spread evenly around one of each slow way, which take minutes."""
    slow = [way for way in ways if way != "fast"]
    fast = count if "fast" in ways else 0
    slots = [number * (len(slow) + 1) // fast for number in range(fast)]
    found: list[Way] = []
    for index in range(len(slow) + 1):
        found += ["fast"] * slots.count(index)
        found += slow[index : index + 1]
    return found


def row(guest: str, way: Way, samples: Sequence[Sample], boot: Boot | None) -> Row:
    """Raises ValueError without samples."""
    if not samples:
        raise ValueError("no samples")
    return Row(
        guest=guest,
        way=way,
        tool=TOOLS[way],
        seconds=round(statistics.median(each.seconds for each in samples), 1),
        read_mib=round(max(each.read for each in samples) / MIB, 2),
        written_mib=round(max(each.written for each in samples) / MIB, 2),
        boots=boot.reached if boot else None,
    )


def share_of_v2v(one: Row, rows: Sequence[Row]) -> float | None:
    """Our seconds / virt-v2v-in-place's on the same guest; None for itself and without it."""
    if one.way == "v2v":
        return None
    theirs = next((each.seconds for each in rows if each.way == "v2v" and each.guest == one.guest), None)
    return one.seconds / theirs if theirs else None


def checks(one: Row, rows: Sequence[Row]) -> list[Check]:
    """The goals that apply to a row; a tool that is not ours is only shown."""
    found = []
    if one.way == "fast":
        share = share_of_v2v(one, rows)
        found += [Check("time / virt-v2v's", share, TIME_GOAL, at_least=False)] if share is not None else []
        found.append(Check("MiB read", one.read_mib, READ_GOAL_MIB, at_least=False))
        found.append(Check("MiB written", one.written_mib, WRITTEN_GOAL_MIB, at_least=False))
    if one.way != "v2v" and one.boots is not None:
        found.append(Check("boots", float(one.boots), 1, at_least=True))
    return found


def load_note(samples: Mapping[str, Sequence[Sample]]) -> str:
    """How busy others kept the machine in each way's runs, in cores."""
    parts = [
        f"{way} {statistics.median(each.others for each in found):.1f} (at most {max(e.others for e in found):.1f})"
        for way, found in samples.items()
        if found
    ]
    return "cores that others kept busy meanwhile: " + (", ".join(parts) or "nothing ran")
