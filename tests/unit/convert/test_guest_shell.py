"""The wrapping of a guest's own programs, run by this machine's shell."""

from __future__ import annotations

import subprocess
import time

from coriolis.convert.guest_shell import MAX_OUTPUT_BYTES, guest_command, outcome, timed_out


def run(*words: str, timeout_s: float = 10) -> tuple[int, str]:
    done = subprocess.run(guest_command(words, timeout_s), capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return outcome(done.stdout)


def test_output_and_status_of_a_program() -> None:
    assert run("sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\nerr")
    assert run("printf", "%s", "a b; $(id)") == (0, "a b; $(id)")


def test_output_without_an_end_is_cut_and_the_status_stays() -> None:
    status, output = run("sh", "-c", "yes | head -c 10000000; echo last; exit 7")
    assert status == 7
    assert output.endswith("last")
    assert len(output) < MAX_OUTPUT_BYTES


def test_a_program_that_does_not_end_is_ended() -> None:
    started = time.monotonic()
    status, _ = run("sh", "-c", "echo x; sleep 60", timeout_s=1)
    assert timed_out(status)
    assert time.monotonic() - started < 20


def test_it_gets_no_input() -> None:
    assert run("cat") == (0, "")


def test_what_never_said_its_status_failed() -> None:
    assert outcome("half of a li") == (-1, "half of a li")
    assert outcome("coriolis-status:x") == (-1, "coriolis-status:x")


def test_a_program_that_is_not_there() -> None:
    assert run("/nonexistent/program")[0] != 0
