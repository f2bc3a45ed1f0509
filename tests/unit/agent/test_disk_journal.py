"""Disk journals: what was appended is read again, damage only shortens, one process at a time."""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash

from coriolis.agent import disk_journal
from coriolis.agent.disk_journal import DiskJournal
from coriolis.errors import Conflict, Corrupt, QuotaExceeded, StaleGeneration, Unavailable
from coriolis.transfer.cells import CELL_BYTES, Run
from coriolis.transfer.journal import Opening, Sealed, opening_record
from coriolis.transfer.table import CellState, CellTable

CELLS = 300


def opening(generation: int = 1, pass_number: int = 1, snapshot: str = "s", size: int = CELLS * CELL_BYTES) -> Opening:
    return Opening("t", "d", size, generation, pass_number, snapshot)


def some_cells(seed: int) -> tuple[CellTable, list[Run]]:
    rng = random.Random(seed)
    table = CellTable(CELLS * CELL_BYTES)
    for cell in range(CELLS):
        if rng.random() < 0.5:
            table.set_data(cell, rng.randbytes(16))
        elif rng.random() < 0.5:
            table.set_zero(Run(cell, 1))
    return table, table.known_runs()


def known(table: CellTable | None) -> dict[int, bytes]:
    assert table is not None
    return {cell: table.digest(cell) for cell in range(table.cells) if table.state(cell) is not CellState.UNKNOWN}


def test_ranges_survive_a_restart_and_belong_to_pass_and_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.journal"
    table, runs = some_cells(1)
    with DiskJournal(path) as journal:
        assert journal.lost
        journal.open_attempt(opening())
        journal.append_ranges(table, runs)
    with DiskJournal(path) as journal:
        assert not journal.lost
        assert known(journal.open_attempt(opening(2))) == known(table)
        journal.append_sealed(Sealed(1, "ab"))
    with DiskJournal(path) as journal:
        assert journal.state.sealed == Sealed(1, "ab")
        assert known(journal.open_attempt(opening(3, snapshot="other"))) == {}
        assert journal.state.sealed is None
    with DiskJournal(path) as journal:
        assert known(journal.open_attempt(opening(4, pass_number=2, snapshot="other"))) == {}


def test_a_generation_is_opened_once_and_only_rising(tmp_path: Path) -> None:
    with DiskJournal(tmp_path / "j") as journal:
        journal.open_attempt(opening(5))
        for old in (5, 4, 0):
            with pytest.raises(StaleGeneration):
                journal.open_attempt(opening(old))
    with DiskJournal(tmp_path / "j") as journal:
        with pytest.raises(StaleGeneration):
            journal.open_attempt(opening(5))
        journal.open_attempt(opening(6))


def test_a_tail_torn_at_any_byte_costs_the_last_record_only(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first, second = some_cells(2), some_cells(3)
    with DiskJournal(path) as journal:
        journal.open_attempt(opening())
        journal.append_ranges(first[0], [Run(0, 5)])
        kept = path.stat().st_size
        journal.append_ranges(second[0], second[1][:1])
    whole = path.read_bytes()
    for length in range(kept, len(whole)):
        path.write_bytes(whole[:length])
        with DiskJournal(path) as journal:
            assert journal.state.valid_bytes == kept
            assert path.stat().st_size == kept, "cut, or the next record would hide behind it"
            journal.append_ranges(first[0], [Run(7, 1)])
        with DiskJournal(path) as journal:
            assert journal.state.table is not None
            assert journal.state.table.digest(7) == first[0].digest(7)


def test_a_flipped_bit_never_invents_anything(tmp_path: Path) -> None:
    path = tmp_path / "j"
    table, runs = some_cells(4)
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(9))
        for run in runs[:6]:
            journal.append_ranges(table, [run])
    whole, truth, rng = path.read_bytes(), known(table), random.Random(5)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with DiskJournal(path) as journal:
            assert journal.state.generation in (0, 9)
            if journal.state.table is not None:
                assert known(journal.state.table).items() <= truth.items()


def test_a_newer_versions_record_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(opening_record(opening()) + _record_of_kind(77))
    with pytest.raises(Corrupt, match="newer version"):
        DiskJournal(path)
    path.write_bytes(b"")
    DiskJournal(path).close()  # a journal that was refused is not left locked


def _record_of_kind(kind: int) -> bytes:
    body = struct.pack("!BI", kind, 2) + b"{}"
    return body + xxhash.xxh3_64_digest(body)


def test_a_second_process_does_not_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_journal, "LOCK_WAIT_S", 0.2)
    path = tmp_path / "j"
    script = (
        "import sys; from pathlib import Path; from coriolis.agent.disk_journal import DiskJournal\n"
        "j = DiskJournal(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match="in use"):
            DiskJournal(path)
    finally:
        holder.kill()
        holder.wait()
    DiskJournal(path).close()


def test_a_full_state_directory_is_told_with_sizes_and_leaves_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D3. A record that was written half must not hide the ones after it."""
    table, runs = some_cells(6)
    with DiskJournal(tmp_path / "j") as journal:
        journal.open_attempt(opening())
        real = os.write
        calls = iter([3])

        def full(file: int, data: bytes) -> int:
            for room in calls:
                return real(file, data[:room])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(QuotaExceeded, match=r"state directory is full.* \d+ bytes"):
            journal.append_ranges(table, runs)
        monkeypatch.setattr(os, "write", real)
        journal.append_ranges(table, runs)
    with DiskJournal(tmp_path / "j") as journal:
        assert known(journal.state.table) == known(table)


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="state directory"):
        DiskJournal(tmp_path / "file" / "sub" / "j")


# -- written hints -------------------------------------------------------------------------------------------------


def test_hints_survive_the_process_and_belong_to_pass_and_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with DiskJournal(path) as journal:
        journal.open_attempt(opening())
        for run in (Run(3, 1), Run(4, 1), Run(10, 20), Run(3, 1)):
            journal.hint_written(run)
        assert journal.written_hints() == [], "what this process writes it knows itself"
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(2))
        assert journal.written_hints() == [Run(3, 2), Run(10, 20)]
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(3, snapshot="other"))
        assert journal.written_hints() == []
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(4, snapshot="other"))
        assert journal.written_hints() == []


def test_hints_that_cannot_be_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with DiskJournal(path) as journal:
        journal.open_attempt(opening())
    notes = [(2, 1), (CELLS, 1), (CELLS - 1, 2), (5, 0), (2**64 - 1, 1), (0, 2**64 - 1), (2**63, 2**63), (CELLS - 1, 1)]
    (tmp_path / "j.written").unlink(missing_ok=True)
    path.with_suffix(".written").write_bytes(b"".join(struct.pack("!QQ", *note) for note in notes) + b"torn")
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(2))
        assert journal.written_hints() == [Run(2, 1), Run(CELLS - 1, 1)]


def test_as_many_hints_as_are_kept_are_read_in_seconds_and_a_byte_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "j"
    cells = disk_journal.MAX_HINT_BYTES // 16
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(size=cells * CELL_BYTES))
    noted = np.zeros((cells, 2), dtype=">u8")
    noted[:, 0] = np.random.default_rng(1).permutation(cells)
    noted[:, 1] = 1
    path.with_suffix(".written").write_bytes(noted.tobytes())
    with DiskJournal(path) as journal:
        journal.open_attempt(opening(2, size=cells * CELL_BYTES))
        began = time.monotonic()
        assert journal.written_hints() == [Run(0, cells)]
        assert time.monotonic() - began < 5
        journal.hint_written(Run(0, 1))
        assert path.with_suffix(".written").stat().st_size == disk_journal.MAX_HINT_BYTES, "and no more are kept"
