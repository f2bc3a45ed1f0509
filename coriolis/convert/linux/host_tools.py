"""Run a program of this machine over bytes of a guest: bounded in time, memory and output, its input never a path.

Runs in the worker process; what it starts dies with the worker's group.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from coriolis.convert.text import shown
from coriolis.errors import Corrupt, TimedOut, Unsupported

TOOL_TIMEOUT_S = 120.0
TOOL_ADDRESS_SPACE_BYTES = 2 << 30
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def run_tool(command: Sequence[str], package: str, data: bytes | memoryview, limit: int) -> bytes:
    """What ``command`` writes when it reads ``data``, at most ``limit`` bytes, which also bounds each file it makes.

    Raises Unsupported naming ``package`` when this machine lacks the program, Corrupt when it fails, TimedOut.
    """
    program = shutil.which(command[0], path=search_path())
    if program is None:
        raise Unsupported(f"this agent needs the program {command[0]} for this guest; install the package {package}")
    limits = [f"--as={TOOL_ADDRESS_SPACE_BYTES}", f"--fsize={limit}", f"--cpu={TOOL_TIMEOUT_S:.0f}", "--core=0"]
    # Files in place of pipes: nothing can block, and the kernel itself ends what writes too much.
    with (
        tempfile.TemporaryFile(dir=scratch_directory()) as source,
        tempfile.TemporaryFile(dir=scratch_directory()) as out,
    ):
        source.write(data)
        source.seek(0)
        try:
            done = subprocess.run(
                ["prlimit", *limits, "--", program, *command[1:]],
                stdin=source,
                stdout=out,
                stderr=subprocess.DEVNULL,
                timeout=TOOL_TIMEOUT_S,
                env={"LC_ALL": "C", "PATH": search_path()},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"{command[0]} on this agent did not end within {TOOL_TIMEOUT_S:.0f} s") from error
        if done.returncode != 0:
            raise Corrupt(f"{shown(command[0])} on this agent failed over data of the guest ({done.returncode})")
        out.seek(0)
        return out.read()


def search_path() -> str:
    """Directories of this machine's programs, those for administrators included."""
    return ":".join([os.environ.get("PATH", ""), *_SYSTEM_DIRECTORIES]).lstrip(":")


def scratch_directory() -> str | None:
    """The directory that the parent of this worker removes after it; None: the system's."""
    return os.environ.get("LIBGUESTFS_TMPDIR")
