"""Digest tree over the cells of a disk: one root that commits to every cell and to what the cells are of.

Leaf: ``BLAKE3(0x00, states, digests)`` of a group of 1,024 cells (1 GiB): one byte of state per cell, then 16 bytes of
xxh3_128 for each cell that holds data. Node: ``BLAKE3(0x01, left, right)``; a node without a right neighbour is carried
up as it is. Root: ``BLAKE3(0x02, length of the subject in 8 bytes, subject, top)``. Format: docs/design/manifests.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import blake3
import msgspec

from coriolis.transfer.cells import Run
from coriolis.transfer.table import DIGEST_BYTES, CellState, CellTable

GROUP_CELLS = 1024
NODE_BYTES = 32
_LEAF, _NODE, _ROOT = b"\x00", b"\x01", b"\x02"


class Subject(msgspec.Struct, frozen=True):
    """What the cells are of. ``covers``: ``pass`` (unknown cells allowed), ``disk`` or ``deployed`` (the whole disk).

    ``sealed_root``: hex; of ``deployed`` the root of the sealed manifest that it came from, else empty.
    """

    covers: str
    transfer_id: str
    disk_id: str
    size_bytes: int
    pass_number: int
    snapshot_identity: str
    sealed_root: str = ""


def leaf_digests(table: CellTable) -> list[bytes]:
    """One digest for each group of 1,024 cells, in order; none for an empty disk."""
    leaves = []
    for first in range(0, table.cells, GROUP_CELLS):
        states, digests = table.get_run(Run(first, min(GROUP_CELLS, table.cells - first)))
        leaves.append(blake3.blake3(_LEAF + states + data_digests(states, digests)).digest())
    return leaves


def data_digests(states: bytes, digests: bytes) -> bytes:
    """Only the digests of cells that hold data."""
    if states.count(CellState.DATA) == len(states):
        return digests
    return b"".join(
        digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        for index, state in enumerate(states)
        if state == CellState.DATA
    )


def tree_root(subject: Subject, leaves: Sequence[bytes]) -> bytes:
    """32 bytes."""
    level = list(leaves)
    while len(level) > 1:
        pairs = [blake3.blake3(_NODE + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    top = level[0] if level else blake3.blake3(_NODE).digest()
    named = msgspec.json.encode(subject)
    return bytes(blake3.blake3(_ROOT + len(named).to_bytes(8, "big") + named + top).digest())
