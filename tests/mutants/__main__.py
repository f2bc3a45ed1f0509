"""``make mutants``: apply each mutant to a copy of the tree, run the tests that must catch it, report.

Exit 0 only when every mutant was caught and the same tests pass on the unchanged copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900
IGNORED = shutil.ignore_patterns(
    ".git", ".venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info", ".demo", "bench"
)


@dataclass(frozen=True)
class Mutant:
    """``old`` must stand in ``file`` exactly once; ``tests`` are pytest arguments."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "epoch compare removed",
        "coriolis/coordinator/etcd_store.py",
        "txn = Txn((fence(self._epoch), modified_at(key, revision)), (Put(key, value),))",
        "txn = Txn((modified_at(key, revision),), (Put(key, value),))",
        ("tests/contract/test_job_store.py",),
    ),
    Mutant(
        "generation check removed in the receiver",
        "coriolis/transfer/receiver.py",
        "if frame.generation != self.generation:",
        "if False:",
        ("tests/unit/transfer", "tests/unit/agent"),
    ),
    Mutant(
        "generation check removed at the journal",
        "coriolis/agent/disk_journal.py",
        "if opening.generation <= self.state.generation:",
        "if False:",
        ("tests/unit/agent",),
    ),
    Mutant(
        "ack before flush",
        "coriolis/agent/sink_disk.py",
        "                await self._writer.flush()\n                runs = self.receiver.make_durable(batch)\n",
        "                runs = self.receiver.make_durable(batch)\n",
        ("tests/unit/agent",),
    ),
    Mutant(
        "seal without comparing digests",
        "coriolis/transfer/receiver.py",
        "if self.table.aggregate_digest() != aggregate_digest:",
        "if False:",
        ("tests/unit/transfer", "tests/unit/agent"),
    ),
    Mutant(
        "second instance may be committed",
        "coriolis/coordinator/scheduler.py",
        'if run.committed_instance not in ("", event.instance_id):',
        "if False:",
        ("tests/unit/coordinator",),
    ),
)


def main() -> int:
    """Return the number of mutants that survived, or of test sets that fail without any mutant."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=IGNORED)
        bad = 0
        for tests in sorted({mutant.tests for mutant in MUTANTS}):
            if not passes(copy, tests):
                print(f"FAILS WITHOUT MUTANT  {' '.join(tests)}", flush=True)
                bad += 1
        for mutant in MUTANTS:
            caught = not passes_mutated(copy, mutant)
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.name}", flush=True)
            bad += not caught
    print(f"{len(MUTANTS) - bad if bad <= len(MUTANTS) else 0} passed, {bad} failed")
    return 1 if bad else 0


def passes_mutated(copy: Path, mutant: Mutant) -> bool:
    path = copy / mutant.file
    original = path.read_text()
    assert original.count(mutant.old) == 1, f"{mutant.name}: its place in {mutant.file} is gone; update the mutant"
    path.write_text(original.replace(mutant.old, mutant.new))
    try:
        return passes(copy, mutant.tests)
    finally:
        path.write_text(original)


def passes(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether pytest is content; a time-out counts as a failure."""
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
