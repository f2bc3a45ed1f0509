"""Keeping a disk's manifest true after conversion changed some of its cells."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coriolis.durable_file import replace_file
from coriolis.providers.base import BlockReader, BlockWriter
from coriolis.transfer.cells import CELL_BYTES, Run, cell_length
from coriolis.transfer.codec import cell_digest, nonzero_blocks
from coriolis.transfer.manifest import decode_manifest, encode_manifest
from coriolis.transfer.table import CellState, CellTable


class RecordingWriter:
    """A writer that remembers which cells were touched."""

    def __init__(self, inner: BlockWriter) -> None:
        self._inner = inner
        self.touched: set[int] = set()

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def block_size(self) -> int:
        return self._inner.block_size

    async def read_at(self, offset: int, length: int) -> bytes:
        return await self._inner.read_at(offset, length)

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self._touch(offset, len(data))
        await self._inner.write_at(offset, data)

    async def write_zeroes(self, offset: int, length: int) -> None:
        self._touch(offset, length)
        await self._inner.write_zeroes(offset, length)

    async def flush(self) -> None:
        await self._inner.flush()

    def _touch(self, offset: int, length: int) -> None:
        if length:
            self.touched.update(range(offset // CELL_BYTES, (offset + length - 1) // CELL_BYTES + 1))


async def update_manifest(path: Path, writer: RecordingWriter) -> None:
    """Re-read the touched cells and store the manifest with their new digests."""
    head, table = decode_manifest(await asyncio.to_thread(path.read_bytes))
    for cell in sorted(writer.touched):
        if cell < table.cells:
            await enter_cell(table, cell, writer)
    await asyncio.to_thread(replace_file, path, encode_manifest(head.transfer_id, head.disk_id, table))


async def enter_cell(table: CellTable, cell: int, reader: BlockReader) -> None:
    """Read one cell of a volume and put its state and digest into ``table``."""
    data = await reader.read_at(cell * CELL_BYTES, cell_length(cell, table.size_bytes))
    if nonzero_blocks(data):
        table.set_data(cell, cell_digest(data))
    else:
        table.set_zero(Run(cell, 1))


async def differing_cells(table: CellTable, reader: BlockReader) -> list[int]:
    """Cells of a volume that do not hold what the manifest says."""
    differing = []
    for cell in range(table.cells):
        data = await reader.read_at(cell * CELL_BYTES, cell_length(cell, table.size_bytes))
        blank = not nonzero_blocks(data)
        expected = table.state(cell)
        if blank != (expected is CellState.ZERO) or (not blank and cell_digest(data) != table.digest(cell)):
            differing.append(cell)
    return differing
