"""Runs of cells as a packed bitmap: bounded in size however scattered they are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import zstandard

from coriolis.errors import Corrupt
from coriolis.transfer.cells import Run
from coriolis.transfer.table import runs_where


def pack_runs(runs: Iterable[Run], cells: int) -> bytes:
    """One bit a cell, zstd-compressed. At most ``cells`` / 8 bytes and a little."""
    mask = np.zeros(cells, dtype=np.bool_)
    for run in runs:
        mask[run.first : run.end] = True
    return zstandard.ZstdCompressor(level=1).compress(np.packbits(mask).tobytes())


def unpack_runs(packed: bytes, cells: int) -> list[Run]:
    """The inverse, as sorted maximal runs; nothing for nothing. Raises Corrupt, and holds no more than ``cells``
    bits and bytes whatever is claimed."""
    if not packed:
        return []
    wanted = -(-cells // 8)
    try:
        if zstandard.frame_content_size(packed) != wanted:
            raise Corrupt(f"a map of cells does not state {wanted} bytes")
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=wanted)
    except zstandard.ZstdError as broken:
        raise Corrupt(f"a map of cells is damaged: {broken}") from broken
    mask = np.unpackbits(np.frombuffer(plain, dtype=np.uint8), count=cells)
    return runs_where(mask.view(np.bool_))
