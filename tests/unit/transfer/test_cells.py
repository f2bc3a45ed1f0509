"""Arithmetic of runs, against sets of cells; and its cost, which may only grow with the number of runs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import InvalidInput
from coriolis.model.disk import Extent
from coriolis.transfer.cells import (
    CELL_BYTES,
    MAX_DISK_BYTES,
    Run,
    cell_count,
    cell_length,
    complement,
    covering_runs,
    holds_cell,
    intersect_runs,
    merge_runs,
    runs_bytes,
    split_runs,
    subtract_runs,
)

CELLS = 40
cell_sets = st.sets(st.integers(0, CELLS - 1))


def runs_of(cells: set[int]) -> list[Run]:
    return merge_runs(Run(cell, 1) for cell in cells)


def cells_of(runs: list[Run]) -> set[int]:
    found = [cell for run in runs for cell in range(run.first, run.end)]
    assert len(found) == len(set(found)), "disjoint"
    assert found == sorted(found), "in order"
    return set(found)


@given(cell_sets, cell_sets)
def test_runs_are_sets_of_cells(left: set[int], right: set[int]) -> None:
    a, b = runs_of(left), runs_of(right)
    assert cells_of(intersect_runs(a, b)) == left & right
    assert cells_of(subtract_runs(a, b)) == left - right
    assert cells_of(complement(a, CELLS)) == set(range(CELLS)) - left
    assert cells_of(merge_runs([*a, *b])) == left | right
    assert {cell for cell in range(-1, CELLS + 1) if holds_cell(a, cell)} == left


@given(cell_sets, cell_sets)
def test_neighbours_that_were_not_merged_are_subtracted_too(left: set[int], right: set[int]) -> None:
    single = [Run(cell, 1) for cell in sorted(left)]
    assert cells_of(subtract_runs(single, runs_of(right))) == left - right
    assert cells_of(subtract_runs(runs_of(left), [Run(cell, 1) for cell in sorted(right)])) == left - right


@given(cell_sets, st.integers(1, 7))
def test_splitting_keeps_the_cells(cells: set[int], most: int) -> None:
    parts = list(split_runs(runs_of(cells), most))
    assert cells_of(parts) == cells
    assert all(1 <= run.count <= most for run in parts)


@pytest.mark.parametrize("size", [0, 511, CELL_BYTES - 1, CELL_BYTES, CELL_BYTES + 1, (2 << 40) + 512, MAX_DISK_BYTES])
def test_the_grid_of_any_size_covers_it_exactly(size: int) -> None:
    cells = cell_count(size)
    assert (cells - 1) * CELL_BYTES < size <= cells * CELL_BYTES or size == cells == 0
    if cells:
        assert runs_bytes([Run(0, cells)], size) == size
        assert 0 < cell_length(cells - 1, size) <= CELL_BYTES
    assert complement([], cells) == ([Run(0, cells)] if cells else [])


@pytest.mark.parametrize("size", [-1, MAX_DISK_BYTES + 1])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput):
        cell_count(size)


@pytest.mark.parametrize("extents", [[(0, 0)], [(0, 5), (4, 5)], [(99, 2)], [(5, 1), (0, 1)]])
def test_extents_that_cannot_be_are_refused(extents: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidInput):
        covering_runs([Extent(offset, length) for offset, length in extents], 100)


def test_two_hundred_thousand_extents_are_planned_in_seconds() -> None:
    """D8. Every second cell: no two runs merge, on either side."""
    count = 200_000
    size = 2 * count * CELL_BYTES
    began = time.monotonic()
    data = covering_runs([Extent(2 * i * CELL_BYTES + 4096, 8192) for i in range(count)], size)
    assert len(data) == count
    zero = complement(data, cell_count(size))
    known = [Run(run.first, 1) for run in data[::2]]
    left = subtract_runs(data, known)
    assert len(left) == count // 2
    assert intersect_runs(data, known) == known
    assert subtract_runs(merge_runs([*data, *zero]), data) == zero
    elapsed = time.monotonic() - began
    assert elapsed < 10, f"{elapsed:.1f} s: the cost must grow with the number of runs, not with its square"
