"""What a process and its children cost is counted in full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.measure import Tracked, cpu_seconds, peak_rss, tracked, wait_until
from bench.ours import check_transport, transport_said

BURN = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
GROW = "x = bytearray(64 << 20)"


def test_proc_texts_are_understood() -> None:
    fields = " ".join(str(number) for number in range(3, 53))
    assert cpu_seconds(f"12 (a) b) {fields}") == pytest.approx((14 + 15 + 16 + 17) / 100)
    assert peak_rss("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n") == 2 << 20
    assert peak_rss("Name:\tx\n") == 0


def test_children_and_grandchildren_count(tmp_path: Path) -> None:
    inner = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])\n{BURN}\n{GROW}\n{BURN}"
    process = Tracked([sys.executable, "-c", outer], log=tmp_path / "log")
    with tracked(process):
        usage = process.wait(60)
    assert usage.cpu_s >= 0.9
    assert usage.largest_rss > 64 << 20
    assert usage.total_rss > usage.largest_rss


def test_a_process_that_ends_too_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    process = Tracked([sys.executable, "-c", "raise SystemExit('no port')"], log=tmp_path / "log")
    with tracked(process), pytest.raises(OSError, match="no port"):
        wait_until(lambda: False, "listening", process)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], ""),
        (["source INFO: disk disk-0: 3 of 4 MiB cells hold data"], ""),
        (["sink INFO: offers grpc and direct", "source INFO: disk disk-0 goes over direct (4 lanes)"], "direct"),
    ],
)
def test_the_transport_is_read_from_events(events: list[str], said: str) -> None:
    assert transport_said(events) == said


def test_another_transport_than_asked_for_is_no_result() -> None:
    check_transport("grpc", [])
    check_transport("auto", ["direct"])
    with pytest.raises(OSError, match="direct was asked"):
        check_transport("direct", ["source INFO: grpc"])
    with pytest.raises(OSError, match="direct was used"):
        check_transport("grpc", ["source INFO: direct"])
