"""Manifest of a sealed disk: state and digest of every cell, and who attests it; kept by the sink's agent."""

from __future__ import annotations

import msgspec
import zstandard

from coriolis.errors import Corrupt
from coriolis.transfer.attestation import Proof, agreed, check_table
from coriolis.transfer.cells import Run
from coriolis.transfer.digest_tree import data_digests
from coriolis.transfer.table import DIGEST_BYTES, CellState, CellTable

MAGIC = b"coriolis-manifest-1\n"
_STEP = 1 << 16


class ManifestHead(msgspec.Struct, frozen=True):
    transfer_id: str
    disk_id: str
    size_bytes: int
    digest: str
    """Hex of ``CellTable.aggregate_digest``."""
    proof: Proof | None = None
    """None in files of versions that did not sign."""


def encode_manifest(transfer_id: str, disk_id: str, table: CellTable, proof: Proof | None = None) -> bytes:
    """The manifest file of a disk."""
    head = ManifestHead(transfer_id, disk_id, table.size_bytes, table.aggregate_digest().hex(), proof)
    parts = [bytearray(), bytearray()]
    for first in range(0, table.cells, _STEP):
        states, digests = table.get_run(Run(first, min(_STEP, table.cells - first)))
        parts[0] += states
        parts[1] += data_digests(states, digests)
    packed = zstandard.ZstdCompressor(level=3).compress(bytes(parts[0]) + bytes(parts[1]))
    line = msgspec.json.encode(head)
    return MAGIC + line + b"\n" + packed


def decode_manifest(content: bytes) -> tuple[ManifestHead, CellTable]:
    """Read a manifest file. Raises Corrupt when anything in it does not fit its digest, or what was signed of it.

    Signatures are not checked here: that needs keys (``coriolis.security.attest``).
    """
    if not content.startswith(MAGIC):
        raise Corrupt("not a manifest of version 1")
    line, separator, packed = content[len(MAGIC) :].partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=ManifestHead)
        table = CellTable(head.size_bytes)
        body = zstandard.ZstdDecompressor().decompress(packed, max_output_size=table.cells * (1 + DIGEST_BYTES) + 1)
    except (msgspec.DecodeError, zstandard.ZstdError) as broken:
        raise Corrupt(f"manifest is damaged: {broken}") from broken
    states = body[: table.cells]
    digests = body[table.cells :]
    wanted = states.count(CellState.DATA) * DIGEST_BYTES
    if not separator or len(states) != table.cells or len(digests) != wanted:
        raise Corrupt("manifest has a wrong length")
    position = 0
    for cell, state in enumerate(states):
        if state == CellState.DATA:
            table.set_data(cell, digests[position : position + DIGEST_BYTES])
            position += DIGEST_BYTES
        elif state == CellState.ZERO:
            table.set_zero(Run(cell, 1))
    if table.aggregate_digest().hex() != head.digest:
        raise Corrupt("manifest does not fit its digest")
    if head.proof is not None:
        check_table(agreed(head.proof).current, table)
    return head, table
