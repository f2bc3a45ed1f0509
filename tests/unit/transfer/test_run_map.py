"""Maps of cells: what is packed comes back; what a peer makes up is refused within bounds."""

from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import Corrupt
from coriolis.transfer.cells import Run, merge_runs
from coriolis.transfer.run_map import pack_runs, unpack_runs


@given(st.integers(0, 200).flatmap(lambda cells: st.tuples(st.just(cells), st.sets(st.integers(0, max(0, cells - 1))))))
def test_runs_come_back_merged(case: tuple[int, set[int]]) -> None:
    cells, wanted = case
    runs = merge_runs(Run(cell, 1) for cell in wanted if cell < cells)
    assert unpack_runs(pack_runs(runs, cells), cells) == runs


def test_no_map_is_no_cell() -> None:
    assert unpack_runs(b"", 10) == []


def test_a_map_of_scattered_cells_fits_into_a_message() -> None:
    cells = 1 << 20
    assert len(pack_runs([Run(0, cells)], cells)) < 200
    assert len(pack_runs((Run(cell, 1) for cell in range(0, cells, 2)), cells)) < 1000
    assert len(zstandard.ZstdCompressor(level=1).compress(os.urandom(cells // 8))) < cells // 8 + 1000


@pytest.mark.parametrize(
    "packed",
    [
        b"x",
        b"\x28\xb5\x2f\xfd",
        zstandard.compress(bytes(100)),
        zstandard.compress(bytes(1 << 30)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2)),
        zstandard.compress(b"\xff\xff")[:-1],
    ],
    ids=range(6),
)
def test_a_map_of_another_size_is_refused(packed: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack_runs(packed, 16)


def test_bits_beyond_the_disk_are_no_cells() -> None:
    assert unpack_runs(zstandard.compress(b"\xff\xff"), 10) == [Run(0, 10)]


@given(st.binary(max_size=60), st.integers(0, 100))
def test_garbage_gives_cells_of_the_disk_or_an_error(packed: bytes, cells: int) -> None:
    try:
        runs = unpack_runs(packed, cells)
    except Corrupt:
        return
    assert all(0 <= run.first < run.end <= cells for run in runs)
