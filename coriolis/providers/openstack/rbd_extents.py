"""What librbd's diff says, as extents: whole grains, in order, within a window. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

GRAIN = 64 * 1024
"""What is reported of a disk begins and ends at multiples of it: bounds how many ranges a window has."""


def windows(start: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """[start, end) in pieces that end at multiples of ``length``: (first, last)."""
    while start < end:
        last = min((start // length + 1) * length, end)
        yield start, last
        start = last


def grains(found: Iterable[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """(offset, length) in any order, overlapping or not, as joined (first, last) within [start, end)."""
    widened = sorted((at // GRAIN * GRAIN, -(-(at + length) // GRAIN) * GRAIN) for at, length in found if length > 0)
    joined: list[tuple[int, int]] = []
    for first, last in widened:
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    cut = ((max(first, start), min(last, end)) for first, last in joined)
    return [(first, last) for first, last in cut if first < last]
