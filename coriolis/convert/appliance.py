"""How the conversion appliance runs on this machine: the accelerator, found by a real launch and remembered.

A ``/dev/kvm`` that opens proves nothing: under some nested hypervisors QEMU aborts at the first instruction,
and libguestfs does not fall back. So KVM is used only where an appliance did start with it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from coriolis.convert.worker_process import run_worker
from coriolis.errors import TaskDied, TimedOut, Unavailable

Accelerator = Literal["kvm", "tcg"]

PROBE_TIMEOUT_S = 180.0  # the first launch on a machine also builds the appliance
CONVERSION_TIMEOUT_S: dict[Accelerator, float] = {"kvm": 300.0, "tcg": 900.0}
_KVM_DEVICE = "/dev/kvm"
_ANSWER_FILE = "accelerator.json"


class _Answer(msgspec.Struct, frozen=True):
    """Valid for one host and kernel."""

    host: str
    accelerator: Accelerator


async def choose_accelerator(
    state_dir: Path, run_dir: Path, memory_mb: int, on_event: Callable[[str], None]
) -> Accelerator:
    """``kvm`` when an appliance starts with it, else ``tcg``.

    Asked once per host and kernel, kept in ``state_dir``.
    """
    path = state_dir / _ANSWER_FILE
    known = remembered(path)
    if known is not None:
        return known
    accelerator: Accelerator = "tcg"
    if os.access(_KVM_DEVICE, os.R_OK | os.W_OK):
        request = {"op": "probe", "accelerator": "kvm", "memory_mb": memory_mb}
        try:
            await run_worker(request, on_event, run_dir=run_dir, timeout_s=PROBE_TIMEOUT_S)
            accelerator = "kvm"
        except (Unavailable, TaskDied, TimedOut) as error:
            on_event(f"KVM does not work here, emulation is used: {error.message}")
    remember(path, accelerator)
    return accelerator


def remembered(path: Path) -> Accelerator | None:
    """The answer in ``path``, if it is one of this host and kernel."""
    try:
        answer = msgspec.json.decode(path.read_bytes(), type=_Answer)
    except (OSError, msgspec.MsgspecError):
        return None
    return answer.accelerator if answer.host == _host() else None


def remember(path: Path, accelerator: Accelerator) -> None:
    """Keep the answer; losing it costs a probe, so it is not made durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(_Answer(_host(), accelerator)))
    part.replace(path)


def _host() -> str:
    return f"{platform.node()} {platform.release()}"
