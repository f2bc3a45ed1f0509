"""The grid that every disk is moved on: cells of 1 MiB, each with its own digest, and runs of cells."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from coriolis.errors import InvalidInput
from coriolis.model.disk import Extent, ExtentKind

CELL_BYTES = 1 << 20
MAX_DISK_BYTES = 64 << 40
"""Largest disk moved: 64 TiB (2^26 cells)."""


class Run(msgspec.Struct, frozen=True, order=True):
    """``count`` > 0 cells from ``first`` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count


def cell_count(size_bytes: int) -> int:
    """Number of cells of a disk. Raises InvalidInput outside 0 to 64 TiB."""
    if not 0 <= size_bytes <= MAX_DISK_BYTES:
        raise InvalidInput(f"disk size {size_bytes} bytes is outside 0 to {MAX_DISK_BYTES}")
    return -(-size_bytes // CELL_BYTES)


def cell_length(cell: int, size_bytes: int) -> int:
    """Bytes in ``cell``: 1 MiB, or less for the last one."""
    return min(CELL_BYTES, size_bytes - cell * CELL_BYTES)


def runs_bytes(runs: Iterable[Run], size_bytes: int) -> int:
    """Bytes covered by ``runs``."""
    return sum(min(run.end * CELL_BYTES, size_bytes) - run.first * CELL_BYTES for run in runs)


def merge_runs(runs: Iterable[Run]) -> list[Run]:
    """The same cells as sorted, disjoint, maximal runs."""
    merged: list[Run] = []
    for run in sorted(runs):
        if merged and run.first <= merged[-1].end:
            last = merged.pop()
            run = Run(last.first, max(last.end, run.end) - last.first)
        merged.append(run)
    return merged


def covering_runs(extents: Iterable[Extent], size_bytes: int) -> list[Run]:
    """Cells touched by the data extents. Raises InvalidInput when one lies beyond the disk or goes backwards."""
    runs = []
    position = 0
    for extent in extents:
        if extent.offset < position or extent.length <= 0 or extent.end > size_bytes:
            raise InvalidInput(f"extent {extent.offset}+{extent.length} is out of order or beyond {size_bytes} bytes")
        position = extent.end
        if extent.kind is ExtentKind.DATA:
            first = extent.offset // CELL_BYTES
            runs.append(Run(first, (extent.end - 1) // CELL_BYTES + 1 - first))
    return merge_runs(runs)


def complement(runs: Iterable[Run], cells: int) -> list[Run]:
    """The cells of ``range(cells)`` that ``runs`` (sorted, disjoint) leave out."""
    gaps = []
    position = 0
    for run in runs:
        if run.first > position:
            gaps.append(Run(position, run.first - position))
        position = run.end
    if position < cells:
        gaps.append(Run(position, cells - position))
    return gaps


def split_runs(runs: Iterable[Run], most: int) -> Iterator[Run]:
    """The same cells in runs of at most ``most``."""
    for run in runs:
        for first in range(run.first, run.end, most):
            yield Run(first, min(most, run.end - first))


def intersect_runs(left: Sequence[Run], right: Sequence[Run]) -> list[Run]:
    """Cells in both of two sorted, disjoint lists."""
    found = []
    i = j = 0
    while i < len(left) and j < len(right):
        first, end = max(left[i].first, right[j].first), min(left[i].end, right[j].end)
        if first < end:
            found.append(Run(first, end - first))
        if left[i].end < right[j].end:
            i += 1
        else:
            j += 1
    return found


def holds_cell(runs: Sequence[Run], cell: int) -> bool:
    """Whether one of the sorted, disjoint ``runs`` covers ``cell``."""
    index = bisect_right(runs, cell, key=lambda run: run.first) - 1
    return index >= 0 and cell < runs[index].end


def subtract_runs(left: Sequence[Run], removed: Sequence[Run]) -> list[Run]:
    """Cells of ``left`` that are not in ``removed``; both sorted and disjoint."""
    left_over = []
    index = 0
    for run in left:
        position = run.first
        while index < len(removed) and removed[index].end <= position:
            index += 1
        while index < len(removed) and removed[index].first < run.end:
            gone = removed[index]
            if gone.first > position:
                left_over.append(Run(position, gone.first - position))
            position = max(position, gone.end)
            if gone.end > run.end:
                break  # it may reach into the next run too
            index += 1
        if position < run.end:
            left_over.append(Run(position, run.end - position))
    return left_over
