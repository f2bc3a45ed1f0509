"""An event loop in a thread of its own: bytes move on even while the task's main loop is busy or blocked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

START_TIMEOUT_S = 10.0


class LoopThread:
    """``with LoopThread(name) as thread``: ``thread.start(coroutine)`` runs it there; leaving the context cancels all.

    An exception of a coroutine ends the thread and is raised when the context is left.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._group: asyncio.TaskGroup | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> LoopThread:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise RuntimeError("a thread did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        if self._thread.is_alive():
            self._call(self._stop.set)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Callable from any thread."""

        def begin() -> None:
            assert self._group is not None
            self._group.create_task(work)

        self._call(begin)

    def _call(self, function: Callable[[], object]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return  # it has just ended

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as failed:  # noqa: BLE001  # raised again where the context is left
            self._failure = failed

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            self._group = group
            stopping = group.create_task(self._stop.wait())
            self._ready.set()
            await stopping
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
