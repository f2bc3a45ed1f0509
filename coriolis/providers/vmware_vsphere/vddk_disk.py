"""Reads disks through VMware's own library, where the operator has it: nbdkit's vddk plugin, libnbd as its client.

Options: nbdkit-vddk-plugin(1). The library (VDDK) may not be handed on, so it is the operator's to download; agents
name its directory as ``vddk_dir``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from coriolis.errors import Corrupt, Unavailable, Unsupported
from coriolis.providers.base import BlockReader
from coriolis.providers.block.nbd_client import nbd_disk
from coriolis.providers.block.tool import stop_tool

CONNECTIONS = 8
"""Each has requests of its own in flight; the plugin opens one handle for each."""
START_TIMEOUT_S = 90.0
PROBE_TIMEOUT_S = 30.0
POLL_S = 0.1
MAX_SAID_BYTES = 2000


class VddkDisk(msgspec.Struct, frozen=True):
    """``snapshot``: managed object id, empty for a machine that is off. ``file``: as the API names the disk's file."""

    library: Path
    server: str
    port: int
    user: str
    thumbprint: str
    machine: str
    snapshot: str
    file: str


def command(disk: VddkDisk, socket_path: str, password_fd: int) -> list[str]:
    """Arguments of nbdkit. The password comes through a descriptor: others can read arguments and environments."""
    argv = ["nbdkit", "--foreground", "--exit-with-parent", "--readonly", "--filter=retry", "--unix", socket_path]
    argv += ["--threads", str(2 * CONNECTIONS), "vddk", f"libdir={disk.library}"]
    argv += [f"server={disk.server}", f"port={disk.port}", f"thumbprint={disk.thumbprint}"]
    argv += [f"user={disk.user}", f"password=-{password_fd}"]
    argv += [f"vm=moref={disk.machine}", *([f"snapshot={disk.snapshot}"] if disk.snapshot else [])]
    return [*argv, "transports=file:san:hotadd:nbdssl:nbd", f"file={disk.file}"]


async def obstacle(library: Path | None) -> str:
    """Why this agent cannot use the library; empty when it can, as far as a look tells."""
    if library is None:
        return "no vddk_dir is configured on this agent"
    if not (library / "lib64").is_dir():
        return f"{library} holds no VDDK: it has no lib64"
    program = shutil.which("nbdkit")
    if program is None:
        return "nbdkit is not installed beside this agent"
    probe = await asyncio.create_subprocess_exec(
        program, "vddk", "--version", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if await probe.wait():
                return "nbdkit's vddk plugin is not installed beside this agent"
    except TimeoutError:
        return "nbdkit did not answer"
    finally:
        await stop_tool(probe)
    return ""


@asynccontextmanager
async def vddk_reader(disk: VddkDisk, password: str, size: int, connections: int) -> AsyncIterator[BlockReader]:
    """A reader of the disk. Raises Unavailable with what nbdkit said, Unsupported, Corrupt for another size."""
    private = tempfile.mkdtemp(prefix="coriolis-vddk-")
    path, read_end = os.path.join(private, "nbd.sock"), -1
    process: asyncio.subprocess.Process | None = None
    try:
        read_end, write_end = os.pipe()
        os.write(write_end, password.encode())  # at most 1 KiB: a pipe holds that
        os.close(write_end)
        with open(os.path.join(private, "said"), "w+b") as said:  # noqa: ASYNC230 - a new local file
            process = await asyncio.create_subprocess_exec(
                *command(disk, path, read_end),
                pass_fds=[read_end],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said.fileno(),
                env={
                    **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME")},
                    "LD_LIBRARY_PATH": str(disk.library / "lib64"),
                },
            )
            await _listening(process, path, said.fileno())
        async with nbd_disk(path, connections=connections) as reader:
            if reader.size != -(-size // 512) * 512 and reader.size != size:
                raise Corrupt(f"VDDK shows {reader.size} bytes of {disk.file}, not {size}")
            yield reader
    except FileNotFoundError as error:
        raise Unsupported("nbdkit is not installed beside this agent: install nbdkit and its vddk plugin") from error
    finally:
        with contextlib.suppress(OSError):
            os.close(read_end)
        if process is not None:
            await stop_tool(process)
        shutil.rmtree(private, ignore_errors=True)


async def _listening(process: asyncio.subprocess.Process, path: str, said: int) -> None:
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while not os.path.exists(path):
        ended = process.returncode is not None
        if ended or asyncio.get_running_loop().time() > deadline:
            text = os.pread(said, MAX_SAID_BYTES, max(0, os.fstat(said).st_size - MAX_SAID_BYTES))
            shown = ascii(text.decode("utf-8", "replace").strip().replace("\n", "; "))[1:-1]
            raise Unavailable(f"nbdkit {'ended' if ended else 'did not start'}: {shown or 'it said nothing'}")
        await asyncio.sleep(POLL_S)
