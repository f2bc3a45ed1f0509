"""Ratios, goals, what curl is told, and the command line of the vSphere bench."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.vsphere import __main__ as command_line
from bench.vsphere import plain_decoder
from bench.vsphere.__main__ import main, ours, show
from bench.vsphere.peers import RUNS, curl_config, ranges
from bench.vsphere.verdicts import CURL, DECODER, GOALS, MIB, OURS, PROCESSES, ZLIB, Run, inventory_verdict, rows
from tests.lab.vsphere_phony_stream import stream


def run(mib_per_s: float, rss_mib: int = 0) -> Run:
    return Run(10.0, int(mib_per_s * MIB * 10), rss_mib * MIB)


def test_ratios_are_taken_within_each_round() -> None:
    rounds = [
        {OURS: run(90, 50), CURL: run(100), PROCESSES: run(200)},
        {OURS: run(10, 70), CURL: run(20), PROCESSES: run(30)},  # a minute in which all were slow
        {OURS: run(110, 60), CURL: run(110), PROCESSES: run(220)},
    ]
    one, many = rows("datastore", rounds)
    assert (one.peer, one.goal, one.n) == (CURL, 0.9, 3)
    assert (one.ratio_min, one.ratio_median, one.ratio_max) == (0.5, 0.9, 1.0)
    assert (one.ours_mib_s, one.peer_mib_s, one.rss_mib) == (90, 100, 70)
    assert (many.peer, many.ratio_median) == (PROCESSES, pytest.approx(0.45))


@pytest.mark.parametrize(
    ("what", "peer", "ours_mib_s", "verdict"),
    [
        ("datastore", CURL, 90, "met (0.9)"),
        ("datastore", CURL, 89, "MISSED (0.9)"),
        ("datastore", PROCESSES, 1, "not judged"),
        ("export", DECODER, 100, "met (1)"),
        ("export", DECODER, 99, "MISSED (1)"),
        ("export-4", ZLIB, 300, "met (3)"),
        ("export-4", ZLIB, 299, "MISSED (3)"),
    ],
)
def test_the_median_is_what_is_judged(what: str, peer: str, ours_mib_s: float, verdict: str) -> None:
    worst, best = ({OURS: run(speed), **{each: run(100) for each in GOALS[what]}} for speed in (1, 1000))
    middle = {OURS: run(ours_mib_s), **{each: run(100) for each in GOALS[what]}}
    found = {row.peer: row.verdict for row in rows(what, [best, middle, worst])}
    assert found[peer] == verdict


@pytest.mark.parametrize(
    ("seconds", "rss_mib", "met"), [(10.0, 200, True), (10.1, 100, False), (1.0, 201, False), (0.5, 50, True)]
)
def test_an_inventory_is_judged_by_time_and_memory(seconds: float, rss_mib: int, met: bool) -> None:
    assert inventory_verdict(seconds, rss_mib * MIB) == f"{'met' if met else 'MISSED'} (10 s, 200 MiB)"


def test_every_goal_has_a_peer_that_runs() -> None:
    assert {peer for peers in GOALS.values() for peer in peers} == RUNS.keys()


@pytest.mark.parametrize("size", [1, 3, 4, 4096, 4097, (1 << 31) + 1])
def test_parts_cover_a_file_once(size: int) -> None:
    ends = [tuple(map(int, part.split("-"))) for part in ranges(size, 4)]
    assert len(ends) <= 4
    assert [byte for first, last in ends for byte in (first, last + 1)][1:-1:2] == [first for first, _ in ends[1:]]
    assert (ends[0][0], ends[-1][1]) == (0, size - 1)


def test_curl_fetches_each_part_of_a_file(tmp_path: Path) -> None:
    """By curl itself: options after ``next`` count for the next part only, so each block needs all of them."""
    file = tmp_path / "disk-flat.vmdk"
    file.write_bytes(random.Random(1).randbytes(10_000))
    config = curl_config(f"file://{file}", "key=value", ranges(10_000, 4))
    for number in range(4):
        config = config.replace('"/dev/null"', f'"{tmp_path}/{number}"', 1)
    assert config.count("insecure") == config.count("Cookie: key=value") == 4
    subprocess.run(["curl", "-Z", "-K", "-"], input=config, text=True, check=True, timeout=30)
    assert b"".join((tmp_path / str(number)).read_bytes() for number in range(4)) == file.read_bytes()


def test_the_plain_decoder_decodes() -> None:
    disk = bytearray(16 * 65536)
    disk[65536 : 4 * 65536] = random.Random(2).randbytes(3 * 65536)
    data = [(65536, 3 * 65536), (8 * 65536, 65536)]
    packed = b"".join(stream(lambda at, length: bytes(disk[at : at + length]), len(disk), data))
    out = io.BytesIO()
    assert plain_decoder.decode(io.BytesIO(packed), out) == len(out.getvalue()) > 0
    assert out.getvalue()[: 3 * 65536] == disk[65536 : 4 * 65536]


def test_the_table_says_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows("datastore", [{OURS: run(50, 88), CURL: run(100), PROCESSES: run(200)}])
    show(Console(width=160), found, {"machines": 5000, "seconds": 7.25, "rss": 93 * MIB})
    said = capsys.readouterr().out
    for part in ("0.50 [0.50-0.50]", "MISSED (0.9)", "not judged", "88", "5000 machines in 7.2 s, 93 MiB: met"):
        assert part in said


def test_what_our_run_starts_counts_and_what_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's program is a script here: it starts a process that holds 40 MiB, and says that it held 1 MiB itself."""
    program = tmp_path / "program"
    child = "import time; held = bytearray(b'x') * (40 << 20); time.sleep(1)"
    program.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        "if sys.argv[3] == 'fails': sys.exit('no such disk')\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])\n"
        'print(\'{"seconds": 1.0, "bytes": 1048576, "rss": 1048576}\')\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(command_line, "LOGS", tmp_path)
    monkeypatch.setattr(sys, "executable", os.fspath(program))
    assert ours("export-1", {})["rss"] > 40 * MIB
    with pytest.raises(Exception, match="no such disk"):
        ours("fails", {})


def test_help_teaches_and_an_unknown_word_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    taught = CliRunner().invoke(main, ["--help"])
    assert taught.exit_code == 0
    for word in ("datastore", "export-4", "inventory", "curl", "Example: python -m bench.vsphere"):
        assert word in taught.output
    refused = CliRunner().invoke(main, ["--what", "nfs", "--out", str(tmp_path / "x.json")])
    assert refused.exit_code == 2
    assert "choose among datastore, export, export-4, inventory" in refused.output


def test_without_curl_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = CliRunner().invoke(main, ["--out", str(tmp_path / "x.json")])
    assert refused.exit_code == 1
    assert "apt-get install curl" in refused.output
