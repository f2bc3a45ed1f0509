"""What is known of each cell of a disk: its state and digest. 17 bytes a cell, 17 MiB for 1 TiB."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import blake3
import numpy as np
import numpy.typing as npt

from coriolis.transfer.cells import Run, cell_count

DIGEST_BYTES = 16
ZERO_DIGEST = bytes(DIGEST_BYTES)
_BLOCK_CELLS = 1 << 16


class CellState(enum.IntEnum):
    UNKNOWN = 0
    ZERO = 1
    DATA = 2


class CellTable:
    """States and digests of the cells of one disk in one pass, or of the whole disk (then it is its manifest)."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.cells = cell_count(size_bytes)
        # numpy's zeros are lazily mapped: an untouched table of a huge disk costs address space only
        self._states: npt.NDArray[np.uint8] = np.zeros(self.cells, dtype=np.uint8)
        self._digests: npt.NDArray[np.uint8] = np.zeros((self.cells, DIGEST_BYTES), dtype=np.uint8)

    def state(self, cell: int) -> CellState:
        return CellState(int(self._states[cell]))

    def digest(self, cell: int) -> bytes:
        """16 bytes; all zero unless the state is DATA."""
        return bytes(self._digests[cell])

    def set_data(self, cell: int, digest: bytes) -> None:
        self._states[cell] = CellState.DATA
        self._digests[cell] = np.frombuffer(digest, dtype=np.uint8)

    def set_zero(self, run: Run) -> None:
        self._states[run.first : run.end] = CellState.ZERO
        self._digests[run.first : run.end] = 0

    def set_run(self, run: Run, states: bytes, digests: bytes) -> None:
        """Take over ``run.count`` states and digests, as ``get_run`` gave them."""
        self._states[run.first : run.end] = np.frombuffer(states, dtype=np.uint8)
        self._digests[run.first : run.end] = np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    def set_chosen(self, run: Run, chosen: npt.NDArray[np.bool_], states: bytes, digests: bytes) -> None:
        """As ``set_run``, for those cells of ``run`` where ``chosen`` (one truth value a cell) says so."""
        found = np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        self._states[run.first : run.end][chosen] = np.frombuffer(states, dtype=np.uint8)[chosen]
        self._digests[run.first : run.end][chosen] = found[chosen]

    def get_run(self, run: Run) -> tuple[bytes, bytes]:
        """(states, digests) of the cells of ``run``: ``count`` and 16 x ``count`` bytes."""
        return self._states[run.first : run.end].tobytes(), self._digests[run.first : run.end].tobytes()

    def clear(self) -> None:
        self._states[:] = 0
        self._digests[:] = 0

    def forget(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._states[run.first : run.end] = 0
            self._digests[run.first : run.end] = 0

    def known_mask(self) -> bytes:
        """One byte a cell: 0 where nothing is known, else 1."""
        known: npt.NDArray[np.bool_] = self._states != CellState.UNKNOWN
        return known.tobytes()

    def count(self, state: CellState) -> int:
        return int(np.count_nonzero(self._states == state))

    def runs(self, *states: CellState) -> Iterator[Run]:
        """Maximal runs of cells whose state is one of ``states``, in order."""
        wanted = np.isin(self._states, np.array(states, dtype=np.uint8))
        yield from runs_where(wanted)

    def known_runs(self) -> list[Run]:
        return list(self.runs(CellState.ZERO, CellState.DATA))

    def merge(self, newer: CellTable) -> None:
        """Overwrite with every cell that ``newer`` knows."""
        known = newer._states != CellState.UNKNOWN
        self._states[known] = newer._states[known]
        self._digests[known] = newer._digests[known]

    def aggregate_digest(self) -> bytes:
        """BLAKE3 (32 bytes) over numbers, states and digests of all known cells in order."""
        hasher = blake3.blake3()
        hasher.update(self.size_bytes.to_bytes(8, "big"))
        for start in range(0, self.cells, _BLOCK_CELLS):
            states = self._states[start : start + _BLOCK_CELLS]
            if not states.any():
                continue
            hasher.update(start.to_bytes(8, "big"))
            hasher.update(states.tobytes())
            hasher.update(self._digests[start : start + _BLOCK_CELLS][states == CellState.DATA].tobytes())
        return bytes(hasher.digest())


def runs_where(chosen: npt.NDArray[np.bool_]) -> list[Run]:
    """Maximal runs of the cells marked, one truth value a cell, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], chosen.view(np.int8), [0]))))
    return [Run(first, end - first) for first, end in zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True)]
