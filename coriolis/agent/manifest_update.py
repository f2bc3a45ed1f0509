"""The manifest of a disk that conversion changed after it was sealed, and which cells differ from a manifest.

The sealed manifest stays as both agents signed it. What the volume holds after conversion is a second file beside it,
the *deployed* manifest, which names the sealed one's root and is signed by the converting agent alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from coriolis.agent.cell_digests import Readable, read_digests
from coriolis.agent.notary import Notary
from coriolis.durable_file import replace_file
from coriolis.errors import Corrupt
from coriolis.providers.base import BlockWriter
from coriolis.transfer.attestation import DiskProof
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.manifest import ManifestHead, decode_manifest, encode_manifest
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


def deployed_path(sealed: Path) -> Path:
    """Where the deployed manifest of a disk is, beside the sealed one."""
    return sealed.with_name(sealed.name + ".deployed")


async def update_manifest(sealed: Path, writer: RecordingWriter, notary: Notary) -> DiskProof | None:
    """Re-read the touched cells and store the deployed manifest with their new digests; None for an unsigned one."""
    before = await asyncio.to_thread(sealed.read_bytes)
    head, table = decode_manifest(before)
    earlier = await asyncio.to_thread(_earlier_deployed, deployed_path(sealed), head)
    if earlier is not None:
        table = earlier  # another attempt's: what it changed and this one did not is changed all the same
    await enter_cells(table, (cell for cell in sorted(writer.touched) if cell < table.cells), writer)
    proof, leaves = await notary.attest_deployed(head.proof, table) if head.proof is not None else (None, [])
    content = encode_manifest(head.transfer_id, head.disk_id, table, proof)
    await asyncio.to_thread(replace_file, deployed_path(sealed), content)
    return DiskProof(proof, tuple(leaves)) if proof is not None else None


def _earlier_deployed(path: Path, sealed: ManifestHead) -> CellTable | None:
    """What an earlier attempt of the conversion left, if it belongs to the same sealed manifest."""
    try:
        head, table = decode_manifest(path.read_bytes())
    except (FileNotFoundError, Corrupt):
        return None
    mine, theirs = sealed.proof, head.proof
    same = mine is not None and theirs is not None and theirs.sink == mine.sink
    return table if same and table.size_bytes == sealed.size_bytes else None


async def enter_cells(table: CellTable, cells: Iterable[int], disk: Readable) -> None:
    """Read cells of a volume and put their states and digests into ``table``."""
    async for cell, digest in read_digests(disk, cells, table.size_bytes):
        if digest:
            table.set_data(cell, digest)
        else:
            table.set_zero(Run(cell, 1))


async def differing_cells(table: CellTable, disk: Readable, cells: Iterable[int] | None = None) -> list[int]:
    """Cells of a volume (of ``cells``, if given) that do not hold what the manifest says."""
    differing = []
    async for cell, digest in read_digests(disk, range(table.cells) if cells is None else cells, table.size_bytes):
        expected = b"" if table.state(cell) is CellState.ZERO else table.digest(cell)
        if digest != expected:
            differing.append(cell)
    return differing
