"""The last resort against a program that does not end, with a handle that locks as libguestfs's does."""

from __future__ import annotations

import subprocess
import threading

import pytest

from coriolis.convert import appliance_limit as module
from coriolis.convert.appliance_limit import appliance_limit


class LockedHandle:
    """While a call runs, every other one waits: and never gets its turn, as nobody ends the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.appliance = subprocess.Popen(["sleep", "1000"])

    def get_pid(self) -> int:
        with self._lock:
            return self.appliance.pid

    def command(self) -> None:
        with self._lock:
            self.appliance.wait(60)
            raise RuntimeError("appliance closed the connection unexpectedly")


def test_a_call_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    handle = LockedHandle()
    with appliance_limit(handle, 0.1) as ended, pytest.raises(RuntimeError, match="closed the connection"):
        handle.command()
    assert ended.is_set()


def test_a_call_that_ends_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    handle = LockedHandle()
    try:
        with appliance_limit(handle, 0.05) as ended:
            pass
        with pytest.raises(subprocess.TimeoutExpired):
            handle.appliance.wait(0.5)
        assert not ended.is_set()
    finally:
        handle.appliance.kill()
        handle.appliance.wait()
