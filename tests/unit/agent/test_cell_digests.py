"""Digests of cells, read a few ahead: in order, bounded, nothing under way after a failure."""

from __future__ import annotations

import asyncio

import pytest

from coriolis.agent.cell_digests import READS_AT_ONCE, read_digests
from coriolis.errors import Unavailable
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import cell_digest

TAIL = 1000


class Disk:
    """Odd cells are zeros. A later read is quicker; reading cell ``bad`` fails."""

    def __init__(self, cells: int, bad: int = -1) -> None:
        self.size = (cells - 1) * CELL_BYTES + TAIL
        self.bad = bad
        self.reading = self.most = self.reads = 0

    async def read_at(self, offset: int, length: int) -> bytes:
        self.reading, self.reads = self.reading + 1, self.reads + 1
        self.most = max(self.most, self.reading)
        try:
            await asyncio.sleep(0.02 / self.reads)
            cell = offset // CELL_BYTES
            if cell == self.bad:
                raise Unavailable("the disk is gone")
            return bytes(length) if cell % 2 else bytes([cell]) * length
        finally:
            self.reading -= 1


async def test_in_order_with_a_few_reads_at_once() -> None:
    disk = Disk(21)
    cells = [2, 1, 0, *range(4, 21)]
    found = [one async for one in read_digests(disk, iter(cells), disk.size)]
    assert [cell for cell, _ in found] == cells
    assert disk.most == READS_AT_ONCE
    digests = dict(found)
    assert digests[1] == b"" == digests[0], "cell 0 is of zeros, too"
    assert digests[2] == cell_digest(b"\2" * CELL_BYTES)
    assert digests[20] == cell_digest(b"\x14" * TAIL), "the last cell is short"


@pytest.mark.parametrize("bad", [0, 3, 9])
async def test_a_failed_read_leaves_nothing_under_way(bad: int) -> None:
    disk = Disk(12, bad)
    with pytest.raises(Unavailable, match="the disk is gone"):
        async for _ in read_digests(disk, range(12), disk.size):
            pass
    assert disk.reading == 0
    assert disk.reads <= bad + READS_AT_ONCE


async def test_a_cancelled_comparison_ends_its_reads() -> None:
    disk = Disk(1000)

    async def compare() -> None:
        async for _ in read_digests(disk, range(1000), disk.size):
            pass

    task = asyncio.create_task(compare())
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert disk.reading == 0
