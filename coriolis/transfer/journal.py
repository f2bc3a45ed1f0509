"""Format of a disk journal: what either side of a pass must still know after a crash. Encoding only, no I/O.

An append-only sequence of records, each ``kind, length, payload, xxh3_64``. A torn or damaged tail ends the journal
there; what came before it holds. The sink journals ranges after they were flushed, the source after the sink called
them durable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
import xxhash

from coriolis.errors import Corrupt
from coriolis.transfer.cells import Run, split_runs
from coriolis.transfer.table import DIGEST_BYTES, CellTable

_RECORD = struct.Struct("!BI")
_RUN = struct.Struct("!QI")
_OPEN, _RANGE, _SEALED = 1, 2, 3
RUN_CELLS = 4096
MAX_RECORD_BYTES = _RUN.size + RUN_CELLS * (1 + DIGEST_BYTES)


class Opening(msgspec.Struct, frozen=True):
    """Begins an attempt. Ranges after it belong to its pass and snapshot."""

    transfer_id: str
    disk_id: str
    size_bytes: int
    generation: int
    pass_number: int
    snapshot_identity: str


class Sealed(msgspec.Struct, frozen=True):
    pass_number: int
    manifest_digest: str


class Replay(msgspec.Struct):
    """What a journal says. ``valid_bytes``: length up to the first damaged record; cut the file there."""

    opening: Opening | None
    generation: int
    """Highest generation ever opened."""
    table: CellTable | None
    """Durable cells of the last opening's pass and snapshot."""
    sealed: Sealed | None
    valid_bytes: int


def _record(kind: int, payload: bytes) -> bytes:
    body = _RECORD.pack(kind, len(payload)) + payload
    return body + xxhash.xxh3_64_digest(body)


def opening_record(opening: Opening) -> bytes:
    return _record(_OPEN, msgspec.json.encode(opening))


def sealed_record(sealed: Sealed) -> bytes:
    return _record(_SEALED, msgspec.json.encode(sealed))


def range_records(table: CellTable, runs: list[Run]) -> bytes:
    """Records of states and digests of ``runs`` as ``table`` has them."""
    parts = []
    for run in split_runs(runs, RUN_CELLS):
        states, digests = table.get_run(run)
        if len(set(states)) == 1 and not any(digests):
            states, digests = states[:1], b""  # a uniform zero run in one byte
        parts.append(_record(_RANGE, _RUN.pack(run.first, run.count) + states + digests))
    return b"".join(parts)


def _records(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    position = 0
    while position + _RECORD.size + 8 <= len(data):
        kind, length = _RECORD.unpack_from(data, position)
        end = position + _RECORD.size + length + 8
        if length > MAX_RECORD_BYTES or end > len(data):
            return
        if xxhash.xxh3_64_digest(data[position : end - 8]) != data[end - 8 : end]:
            return
        yield kind, data[position + _RECORD.size : end - 8], end
        position = end


def replay(data: bytes) -> Replay:
    """Read a journal. Damage only shortens it; an impossible record raises Corrupt."""
    state = Replay(None, 0, None, None, 0)
    for kind, payload, end in _records(data):
        if kind == _OPEN:
            _reopen(state, msgspec.json.decode(payload, type=Opening))
        elif kind == _RANGE:
            _take_range(state, payload)
        elif kind == _SEALED:
            state.sealed = msgspec.json.decode(payload, type=Sealed)
        else:
            raise Corrupt(f"journal record of kind {kind} is unknown; was it written by a newer version?")
        state.valid_bytes = end
    return state


def _reopen(state: Replay, opening: Opening) -> None:
    before = state.opening
    same = before is not None and (before.pass_number, before.snapshot_identity, before.size_bytes) == (
        opening.pass_number,
        opening.snapshot_identity,
        opening.size_bytes,
    )
    if not same or state.table is None:
        state.table = CellTable(opening.size_bytes)
        state.sealed = None
    state.opening = opening
    state.generation = max(state.generation, opening.generation)


def _take_range(state: Replay, payload: bytes) -> None:
    if state.table is None:
        raise Corrupt("journal has a range before any opening")
    first, count = _RUN.unpack_from(payload)
    run = Run(first, count)
    rest = payload[_RUN.size :]
    if count < 1 or run.end > state.table.cells:
        raise Corrupt(f"journal names cells {first}+{count} beyond the disk")
    if len(rest) == 1:
        rest = rest * count + bytes(DIGEST_BYTES * count)
    if len(rest) != count * (1 + DIGEST_BYTES):
        raise Corrupt("journal range has a wrong length")
    state.table.set_run(run, rest[:count], rest[count:])
