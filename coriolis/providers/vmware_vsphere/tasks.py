"""Waits for tasks of vSphere."""

from __future__ import annotations

import time
from typing import Any

from coriolis.errors import TimedOut
from coriolis.providers.vmware_vsphere.properties import some

TASK_TIMEOUT_S = 1800.0
"""Removing a snapshot of a busy machine consolidates its disks, which may take long."""
FIRST_POLL_S, MAX_POLL_S = 0.05, 1.0


def wait(content: Any, task: Any, timeout_s: float = TASK_TIMEOUT_S) -> Any:
    """The task's result. Blocking; raises its fault, TimedOut."""
    deadline, pause = time.monotonic() + timeout_s, FIRST_POLL_S
    while time.monotonic() < deadline:
        values = next(some(content, [task], ["info.state"]))[1]
        state = str(values.get("info.state", ""))
        if state == "success":
            return next(some(content, [task], ["info.result"]))[1].get("info.result")
        if state == "error":
            raise next(some(content, [task], ["info.error"]))[1]["info.error"]
        time.sleep(pause)
        pause = min(MAX_POLL_S, 1.5 * pause)
    raise TimedOut(f"a task of vSphere did not end within {timeout_s:.0f} s; it goes on there")
