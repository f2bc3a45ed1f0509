"""The file behind a disk journal: locked, append-only, synced. Format: ``coriolis.transfer.journal``."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from pathlib import Path
from types import TracebackType

import numpy as np

from coriolis.errors import Conflict, CoriolisError, QuotaExceeded, StaleGeneration, Unavailable
from coriolis.transfer.cells import Run
from coriolis.transfer.journal import (
    Opening,
    Replay,
    Sealed,
    opening_record,
    range_records,
    replay,
    sealed_record,
)
from coriolis.transfer.table import CellTable, runs_where

LOCK_WAIT_S = 10.0
"""A killed predecessor's lock goes with its process; one that still runs after this long is a defect."""

MAX_HINT_BYTES = 64 << 20
"""Four million cells, 4 TiB written without an end of the pass; beyond that a crash costs sending again."""


class DiskJournal:
    """Open journal of one disk and side. Holding the file's lock means that no older process writes the volume."""

    def __init__(self, path: Path) -> None:
        self.lost = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as failed:
            raise _journal_error(failed, 0) from failed
        self._lock(path)
        self._hints = WrittenHints(path.with_suffix(".written"))
        try:
            self.state: Replay = self._replay()
        except BaseException:
            self.close()
            raise
        # cut a torn tail off, or records appended behind it would never be read
        os.ftruncate(self._file, self.state.valid_bytes)
        os.lseek(self._file, 0, os.SEEK_END)

    def _replay(self) -> Replay:
        os.lseek(self._file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._file), "rb") as reader:
            return replay(reader.read())

    def _lock(self, path: Path) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as held:
                if time.monotonic() > deadline:
                    os.close(self._file)
                    raise Conflict(f"{path.name} is in use by another process of this agent") from held
                time.sleep(0.05)
            else:
                return

    @property
    def lock_descriptor(self) -> int:
        """Whoever holds a copy of it holds the lock (flock(2)): a process that writes the volume must."""
        return self._file

    def open_attempt(self, opening: Opening) -> CellTable:
        """Begin an attempt durably; returns what is known for its pass and snapshot.

        Raises StaleGeneration unless the generation is above every one seen (fence 3).
        """
        if opening.generation <= self.state.generation:
            raise StaleGeneration(
                f"generation {opening.generation} of disk {opening.disk_id} is not above {self.state.generation}"
            )
        before = self.state.opening
        self._append(opening_record(opening))
        if before is None or (before.pass_number, before.snapshot_identity, before.size_bytes) != (
            opening.pass_number,
            opening.snapshot_identity,
            opening.size_bytes,
        ):
            self._hints.clear()
        self.state = self._replay()
        os.lseek(self._file, 0, os.SEEK_END)
        assert self.state.table is not None
        return self.state.table

    def append_ranges(self, table: CellTable, runs: list[Run]) -> None:
        """Return when the ranges are on disk."""
        if runs:
            self._append(range_records(table, runs))

    def hint_written(self, run: Run) -> None:
        """Note cells that were written and are not durable: should this process die, they are worth a comparison."""
        self._hints.add(run)

    def written_hints(self) -> list[Run]:
        """Cells that may hold what this pass wrote, sorted. Nothing may be built on it but a comparison."""
        assert self.state.table is not None
        return self._hints.runs(self.state.table.cells)

    def append_sealed(self, sealed: Sealed) -> None:
        self._append(sealed_record(sealed))
        self.state.sealed = sealed

    def _append(self, record: bytes) -> None:
        """Durably, or not at all: what a failed write left would hide every later record."""
        end = os.lseek(self._file, 0, os.SEEK_CUR)
        view = memoryview(record)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as failed:
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)
            raise _journal_error(failed, len(record)) from failed

    def close(self) -> None:
        self._hints.close()
        os.close(self._file)

    def __enter__(self) -> DiskJournal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class WrittenHints:
    """A file of runs beside the journal, never synced: it survives the end of a process, which is what it is for.

    It holds no truth: a lost or damaged entry costs sending a cell again, an invented one costs a comparison.
    """

    _ENTRY = struct.Struct("!QQ")

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._earlier = os.pread(self._file, MAX_HINT_BYTES, 0)
        self._bytes = os.fstat(self._file).st_size

    def add(self, run: Run) -> None:
        if self._bytes >= MAX_HINT_BYTES:
            return
        with contextlib.suppress(OSError):  # a full file system is told of by the journal itself
            self._bytes += os.write(self._file, self._ENTRY.pack(run.first, run.count))

    def runs(self, cells: int) -> list[Run]:
        """What an earlier process noted. Costs a byte a cell, however many notes there are."""
        whole = len(self._earlier) - len(self._earlier) % self._ENTRY.size
        noted = np.frombuffer(self._earlier[:whole], dtype=">u8").reshape(-1, 2)
        first, count = noted[:, 0], noted[:, 1]
        possible = (first < cells) & (count > 0) & (count <= cells)
        written = np.zeros(cells, dtype=np.bool_)
        written[first[possible & (count == 1)].astype(np.int64)] = True
        for start, length in noted[possible & (count > 1)].tolist():
            written[start : start + length] = True
        return runs_where(written)

    def clear(self) -> None:
        self._earlier = b""
        self._bytes = 0
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        os.close(self._file)


def _journal_error(failed: OSError, wanted_bytes: int) -> CoriolisError:
    if failed.errno in (errno.ENOSPC, errno.EDQUOT):
        return QuotaExceeded(
            f"the agent's state directory is full: a journal needs {wanted_bytes} bytes more; free space there"
        )
    return Unavailable(f"the agent's state directory cannot be written: {failed.strerror}")
