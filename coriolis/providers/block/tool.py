"""Runs qemu tools confined: limits, no network, killed with us, files handed over as descriptors."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from coriolis.errors import CoriolisError, TimedOut, Unsupported

_CONFINE = Path(__file__).with_name("confine.py")
MIN_PASSED_DESCRIPTOR = 10
"""Descriptors handed to a tool start here, clear of stdio and of the socket-activated descriptor 3."""
MAX_DIAGNOSTIC_BYTES = 400
STOP_GRACE_S = 5.0


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one tool process; -1 means unbounded."""

    address_space: int = 8 << 30
    cpu_s: int = 7 * 24 * 3600
    file_size: int = -1


QUERY_LIMITS = Limits(address_space=2 << 30, cpu_s=30)
"""For tools that only read or change metadata."""


def pass_descriptor(descriptor: int) -> int:
    """A duplicate that may be handed to a child without meeting the numbers it uses itself."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, MIN_PASSED_DESCRIPTOR)


def descriptor_path(descriptor: int) -> str:
    """The path under which a child reaches an inherited descriptor: exactly the file that was checked."""
    return f"/proc/self/fd/{descriptor}"


async def start_tool(
    argv: Sequence[str],
    descriptors: Sequence[int],
    *,
    limits: Limits,
    listen: int = -1,
    stderr: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start ``argv``. It dies with this process: the event loop's thread must be one that lives as long."""
    spec = {
        "parent": os.getpid(),
        "address_space": limits.address_space,
        "cpu_s": limits.cpu_s,
        "file_size": limits.file_size,
        "listen": listen,
        "argv": list(argv),
    }
    passed = [*descriptors, listen] if listen >= 0 else list(descriptors)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(_CONFINE),
        json.dumps(spec),
        pass_fds=passed,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if stderr == asyncio.subprocess.PIPE else asyncio.subprocess.DEVNULL,
        stderr=stderr,
    )


async def stop_tool(process: asyncio.subprocess.Process) -> None:
    """Ask to stop, then kill; returns when the process is gone."""
    if process.returncode is not None:
        return
    try:
        process.terminate()
        async with asyncio.timeout(STOP_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    except ProcessLookupError:
        await process.wait()


async def run_tool(
    argv: Sequence[str], descriptors: Sequence[int] = (), *, limits: Limits = QUERY_LIMITS, timeout_s: float
) -> str:
    """Standard output of a tool that succeeded. Raises Unsupported when it is not installed, TimedOut, or the base
    error with what the tool said."""
    process = await start_tool(argv, descriptors, limits=limits)
    try:
        async with asyncio.timeout(timeout_s):
            out, said = await process.communicate()
    except TimeoutError as error:
        raise TimedOut(f"{argv[0]} did not finish within {timeout_s:g} s") from error
    finally:
        await stop_tool(process)
    if process.returncode:
        raise tool_error(argv[0], process.returncode, said)
    return out.decode("utf-8", "replace")


def tool_error(tool: str, code: int | None, said: bytes) -> CoriolisError:
    """What a failed tool means."""
    text = said[-MAX_DIAGNOSTIC_BYTES:].decode("utf-8", "replace").strip().replace("\n", "; ")
    if "FileNotFoundError" in text:
        return Unsupported(f"{tool} is not installed beside this agent: install qemu-utils")
    return CoriolisError(f"{tool} ended with status {code}: {text or 'no message'}")
