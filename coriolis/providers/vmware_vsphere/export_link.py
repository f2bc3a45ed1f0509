"""The task's end of an export: starts the process that fetches and decodes, hands out what comes, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coriolis.errors import TimedOut
from coriolis.providers.block.calls import Calls
from coriolis.providers.vmware_vsphere.export_messages import Batch, Order, encode_order, receive_batch

MODULE = "coriolis.providers.vmware_vsphere.export_process"
SOCKET_BUFFER_BYTES = 1 << 20
"""What the process may be ahead of us; the kernel may grant less."""
START_S = 60.0
"""Silence that is more than a stalled download: the start of an interpreter on a busy machine, connecting."""


@asynccontextmanager
async def decoded(order: Order) -> AsyncIterator[AsyncIterator[Batch]]:
    """The batches of a disk's export from its beginning; the process lives as long as this context, and as we do.

    The iterator raises what the process reports; Unavailable when it ended without a word, TimedOut when it is silent.
    """
    ours, theirs = socket.socketpair()
    calls = Calls(1, "vsphere-export")
    process: asyncio.subprocess.Process | None = None
    try:
        with theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", MODULE, stdin=theirs.fileno(), stdout=2
            )
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which shows in what comes
            await calls.run(ours.sendall, encode_order(order))
        yield _batches(calls, ours, order.stall_s + START_S)
    finally:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        ours.shutdown(socket.SHUT_RDWR)  # ends a call that waits
        await calls.close(ours.close)
        if process is not None:
            await process.wait()


async def _batches(calls: Calls, link: socket.socket, silence_s: float) -> AsyncIterator[Batch]:
    while True:
        try:
            async with asyncio.timeout(silence_s):
                batch = await calls.run(receive_batch, link)
        except TimeoutError as error:
            raise TimedOut(f"the process that reads the export said nothing for {silence_s:g} s") from error
        if batch is None:
            return
        yield batch
        if batch.ended:
            return
