"""Waits for tasks of vSphere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from pyVmomi import vim, vmodl

from coriolis.errors import TimedOut
from coriolis.providers.vmware_vsphere.properties import some

TASK_TIMEOUT_S = 1800.0
"""Removing a snapshot of a busy machine consolidates its disks, which may take long."""
FIRST_POLL_S, MAX_POLL_S = 0.05, 1.0
BUSY_POLL_S = 2.0
_GOES_ON = ("queued", "running")


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


def run(content: Any, begin: Callable[[], Any], timeout_s: float = TASK_TIMEOUT_S) -> Any:
    """The result of the task that ``begin`` starts. Blocking; raises its fault, TimedOut.

    A machine has one task at a time: while DRS moves it, or another's backup freezes it, ours waits its turn.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return wait(content, begin(), deadline - time.monotonic())
        except vim.fault.TaskInProgress:
            if time.monotonic() + BUSY_POLL_S > deadline:
                raise
        time.sleep(BUSY_POLL_S)


def let_end(content: Any, entity: Any, kind: str) -> None:
    """Wait until no task of a kind (``VirtualMachine.createSnapshot``) goes on at an object, whoever began it: what an
    agent asked for goes on when the agent is dead. How it ends is not told. Blocking; raises TimedOut."""
    for task in next(some(content, [entity], ["recentTask"]))[1].get("recentTask") or ():
        with contextlib.suppress(vmodl.fault.ManagedObjectNotFound):  # it ended long enough ago to be forgotten
            values = next(some(content, [task], ["info.descriptionId", "info.state"]))[1]
            if str(values.get("info.state")) in _GOES_ON and str(values.get("info.descriptionId")).startswith(kind):
                with contextlib.suppress(vmodl.MethodFault):
                    wait(content, task)
