"""Blocking calls in threads whose descriptors are never closed under them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CLOSE_WAIT_S = 30.0
"""How long closing waits for calls that hang; they keep their descriptor open and release it when they return."""
MAX_THREADS = 4
"""Threads per open disk: enough to keep one device busy, few enough for hundreds of disks."""


class Calls:
    """Runs blocking calls for one resource.

    A cancelled task leaves its thread running. ``close`` therefore waits for every thread before it releases the
    resource: a descriptor that is closed, then reused, under a late ``pwrite`` would corrupt another file.
    """

    def __init__(self, threads: int = MAX_THREADS, name: str = "block") -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Result of ``call`` in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: call(*args, **kwargs))

    async def close(self, release: Callable[[], None]) -> None:
        """Wait for running calls, then call ``release``; it happens even when the waiting task is cancelled."""

        def finish() -> None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            release()

        finished = asyncio.get_running_loop().run_in_executor(None, finish)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await asyncio.shield(finished)
