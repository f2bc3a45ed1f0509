"""Ends an appliance in which a program will not: the last resort behind ``timeout`` inside of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GRACE_S = 30.0
"""A fork bomb may keep the appliance's own ``timeout`` from acting; it gets this much longer."""


@contextmanager
def appliance_limit(handle: Any, seconds: float) -> Iterator[threading.Event]:
    """Kill the appliance when the block takes longer than ``seconds`` and the grace; the event then is set.

    The appliance's process is asked for beforehand: inside a call libguestfs keeps its handle locked, and a thread that
    asked it anything would wait for ever, holding the interpreter.
    """
    ended, pid = threading.Event(), int(handle.get_pid())

    def end() -> None:
        ended.set()
        os.kill(pid, signal.SIGKILL)

    watch = threading.Timer(seconds + GRACE_S, end)
    watch.start()
    try:
        yield ended
    finally:
        watch.cancel()
