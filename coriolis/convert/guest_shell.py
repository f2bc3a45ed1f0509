"""How a guest's own program is wrapped so that its time and output are bounded. Pure; needs ``sh`` in the guest."""

from __future__ import annotations

from collections.abc import Sequence

MAX_OUTPUT_BYTES = 64 << 10
_STATUS = "coriolis-status:"
_TIMEOUT_STATUS = (124, 137, 143)  # of timeout(1): ended, killed; of busybox's: ended by SIGTERM


def guest_command(words: Sequence[str], timeout_s: float) -> list[str]:
    """``words`` for the guest's shell: no input, both outputs cut at 64 KiB and reduced to ASCII, and its exit status
    as the last line, for a pipe would hide it. The guest's ``timeout``, where it has one, ends the program alone.
    """
    limit = f"$(command -v timeout >/dev/null && echo timeout -k 10 {timeout_s:.0f})"
    run = f'{limit} "$@" 2>&1 </dev/null; status=$?; echo; echo "{_STATUS}$status"'
    # tail may cut a character, a program may print anything: libguestfs ends at a zero and refuses what is no UTF-8
    script = f"{{ {run}; }} | tail -c {MAX_OUTPUT_BYTES} | LC_ALL=C tr '\\000\\200-\\377' '?'"
    return ["/bin/sh", "-c", script, "coriolis", *words]


def outcome(output: str) -> tuple[int, str]:
    """(exit status, what was printed) of a ``guest_command``; status -1 when the shell never said it."""
    text, mark, status = output.rpartition(_STATUS)
    if not mark or not status.strip().isdigit():
        return -1, output
    return int(status), text.rstrip("\n")


def timed_out(status: int) -> bool:
    return status in _TIMEOUT_STATUS
