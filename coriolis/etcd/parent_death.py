"""Run a program that dies with its parent (Linux): ``python parent_death.py PARENT_PID PROGRAM ARG...``.

A program of its own, because the death signal must be set between fork and exec, and a process that has
used gRPC must not run Python there. The process keeps its pid.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the program."""
    parent_pid, program = int(arguments[0]), arguments[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("the parent is gone already")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
