"""``make mutants``: apply each mutant to a copy of the tree, run the tests that must catch it, report.

Words on the command line choose mutants by parts of their names. Exit 0 only when every mutant was caught and the same
tests pass on the unchanged copy.
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
        "header checksum ignored",
        "coriolis/transfer/codec.py",
        "if xxhash.xxh3_64_intdigest(message[: _FIELDS.size]) != _CHECK.unpack_from(message, _FIELDS.size)[0]:",
        "if False:",
        ("tests/unit/transfer",),
    ),
    Mutant(
        "zstd size not checked",
        "coriolis/transfer/codec.py",
        "if zstandard.frame_content_size(frame.payload) != stated:",
        "if False:",
        ("tests/unit/transfer",),
    ),
    Mutant(
        "written hints trusted as durable",
        "coriolis/agent/sink_disk.py",
        "durable_map=pack_runs(self._receiver.table.known_runs(), cells),",
        "durable_map=pack_runs([*self._receiver.table.known_runs(), *self._journal.written_hints()], cells),",
        ("tests/unit/agent",),
    ),
    Mutant(
        "lost lane not requeued",
        "coriolis/transfer/sender.py",
        "        for cell, flight in [item for item in self._flights.items() if item[1].lane == lane]:\n"
        "            self._requeue(cell, flight)\n",
        "        return\n",
        ("tests/unit/transfer",),
    ),
    Mutant(
        "one decompressor for all threads",
        "coriolis/transfer/codec.py",
        "plain = zstandard.ZstdDecompressor().decompress(",
        'plain = globals().setdefault("shared", zstandard.ZstdDecompressor()).decompress(',
        ("tests/unit/transfer",),
    ),
    Mutant(
        "refusals forgotten with the stream of acks",
        "coriolis/transfer/receiver.py",
        "return encode_acks([*received, *rejected])",
        "return encode_acks(received)",
        ("tests/unit/transfer",),
    ),
    Mutant(
        "a seal signed with another key than the peer shows",
        "coriolis/agent/notary.py",
        "if not same_key(source, peer_certificate):",
        "if False:",
        ("tests/unit/agent",),
    ),
    Mutant(
        "a source's statement of other content is countersigned",
        "coriolis/agent/notary.py",
        "check_same_pass(theirs, ours)",
        "pass",
        ("tests/unit/agent",),
    ),
    Mutant(
        "certificates made by a member are believed",
        "coriolis/security/attest.py",
        "return constraints.ca",
        "return True",
        ("tests/unit/security",),
    ),
    Mutant(
        "second instance may be committed",
        "coriolis/coordinator/scheduler.py",
        'if run.committed_instance not in ("", event.instance_id):',
        "if False:",
        ("tests/unit/coordinator",),
    ),
)


def main(wanted: tuple[str, ...] = ()) -> int:
    """Return 1 when a mutant survived, or tests fail without any. ``wanted``: parts of the names of those to try."""
    mutants = [each for each in MUTANTS if not wanted or any(part in each.name for part in wanted)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=IGNORED)
        bad = 0
        for tests in sorted({mutant.tests for mutant in mutants}):
            if not passes(copy, tests):
                print(f"FAILS WITHOUT MUTANT  {' '.join(tests)}", flush=True)
                bad += 1
        for mutant in mutants:
            caught = not passes_mutated(copy, mutant)
            print(f"{'caught  ' if caught else 'SURVIVED'}  {mutant.name}", flush=True)
            bad += not caught
    print(f"{max(0, len(mutants) - bad)} passed, {bad} failed")
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
    sys.exit(main(tuple(sys.argv[1:])))
