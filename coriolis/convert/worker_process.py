"""Run one request in a guest worker: its own process group, bounded in time and output, ended on cancel."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import coriolis
from coriolis.errors import Corrupt, TaskDied, TimedOut, Unavailable, from_code

MAX_LINE_BYTES = 64 << 10
MAX_LINES = 10_000
STDERR_TAIL_BYTES = 2000
END_TIMEOUT_S = 10.0
WHOLE_TIMEOUT_S = 7200.0
WATCH_INTERVAL_S = 0.2
FIND_TIMEOUT_S = 30.0
_SYSTEM_PYTHON = "/usr/bin/python3"
_CAN_IMPORT = "import sys, guestfs; assert sys.version_info >= (3, 11)"
_PASSED_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LIBGUESTFS_PATH",
    "LIBGUESTFS_CACHEDIR",
    "LIBGUESTFS_HV",
    "SUPERMIN_KERNEL",
    "SUPERMIN_MODULES",
)


async def find_interpreter() -> str:
    """A Python that can import libguestfs: this one, else the system's. Raises Unavailable."""
    for path in (sys.executable, _SYSTEM_PYTHON):
        try:
            process = await asyncio.create_subprocess_exec(
                path, "-c", _CAN_IMPORT, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
            )
        except OSError:
            continue
        try:
            async with asyncio.timeout(FIND_TIMEOUT_S):
                if await process.wait() == 0:
                    return path
        except TimeoutError:
            process.kill()
            await process.wait()
    raise Unavailable("no Python here can import libguestfs; install the package python3-guestfs on this agent")


async def run_worker(
    request: Mapping[str, Any], on_event: Callable[[str], None], *, run_dir: Path, timeout_s: float
) -> dict[str, Any]:
    """The worker's result.

    ``run_dir``: short path of a private directory for its sockets and temporary files. ``timeout_s``: how long it may
    say nothing; the full way takes minutes for each kernel, and there may be many.

    Raises what the worker reports; TaskDied when it ends without an answer, TimedOut, Corrupt for too much
    output. However this ends, no process of the worker's group is left.
    """
    with open(run_dir / "worker.stderr", "w+b") as stderr:  # noqa: ASYNC230 (a local file; nothing blocks)
        process = await _start(run_dir, stderr)
        try:
            async with asyncio.timeout(WHOLE_TIMEOUT_S), asyncio.timeout(timeout_s) as silence:
                loop = asyncio.get_running_loop()

                def heard(event: str) -> None:
                    silence.reschedule(loop.time() + timeout_s)
                    on_event(event)

                watch = asyncio.create_task(_end_group_with_leader(process))
                try:
                    answer = await _converse(process, request, heard)
                finally:
                    watch.cancel()
        except TimeoutError as error:
            raise TimedOut(f"the guest conversion said nothing for {timeout_s:.0f} s and was stopped") from error
        finally:
            await _end(process)
        if answer is None:
            raise TaskDied(f"the conversion worker ended without an answer: {_tail(stderr.fileno())}")
    if "error" in answer:
        raise from_code(str(answer["error"]["code"]), str(answer["error"]["message"]))
    result: dict[str, Any] = answer["result"]
    return result


async def _start(run_dir: Path, stderr: IO[bytes]) -> asyncio.subprocess.Process:
    environment = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
    environment |= {"LC_ALL": "C.UTF-8", "PYTHONPATH": str(Path(coriolis.__file__).parent.parent)}
    environment |= {"LIBGUESTFS_TMPDIR": str(run_dir)}
    return await asyncio.create_subprocess_exec(
        await find_interpreter(),
        "-P",
        "-m",
        "coriolis.convert.guest_worker",
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=environment,
        start_new_session=True,
        limit=MAX_LINE_BYTES,
    )


async def _converse(
    process: asyncio.subprocess.Process, request: Mapping[str, Any], on_event: Callable[[str], None]
) -> dict[str, Any] | None:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        await process.stdin.drain()
    except ConnectionError:
        return None
    for _ in range(MAX_LINES):
        try:
            line = await process.stdout.readline()
            answer = json.loads(line) if line else None
        except ValueError as error:  # too long, or no JSON
            raise Corrupt("the conversion worker wrote something that is no answer") from error
        if not isinstance(answer, dict) or "result" in answer or "error" in answer:
            return answer if isinstance(answer, dict) else None
        on_event(str(answer.get("event", "")))
    raise Corrupt(f"the conversion worker wrote more than {MAX_LINES} lines")


async def _end_group_with_leader(process: asyncio.subprocess.Process) -> None:
    """When the worker crashes, end what it started: an appliance that holds its stdout open would keep us
    waiting.

    Polled, because ``Process.wait`` of some Python versions waits for that stdout too.
    """
    while process.returncode is None:  # noqa: ASYNC110 (polled on purpose, see above)
        await asyncio.sleep(WATCH_INTERVAL_S)
    _kill_group(process.pid)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the whole group, the appliance's QEMU included, and reap the worker."""
    _kill_group(process.pid)
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            # What was not read keeps the pipe open, and some Python versions wait for that.
            while process.stdout is not None and await process.stdout.read(MAX_LINE_BYTES):
                pass
            await process.wait()
    except TimeoutError as error:
        raise TaskDied("the conversion worker could not be stopped") from error


def _kill_group(group: int) -> None:
    """While a group has members its number is nobody else's, even after its leader was reaped."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, STDERR_TAIL_BYTES, max(0, size - STDERR_TAIL_BYTES))
    lines = data.decode("utf-8", "replace").strip().splitlines()
    return ascii(lines[-1])[1:-1][:300] if lines else "it said nothing"
