"""How the conversion appliance runs on this machine: the accelerator, found by a real launch and remembered.

A ``/dev/kvm`` that opens proves nothing: under some nested hypervisors QEMU aborts at the first instruction,
and libguestfs does not fall back. So KVM is used only where an appliance did start with it.
"""

from __future__ import annotations

import os
import platform
import stat
import time
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
SOCKET_GRACE_S = 10.0  # from the directory to a socket that listens it takes milliseconds
_SOCKET = "guestfsd.sock"
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


def remove_dead_sockets(top: Path = Path("/tmp")) -> None:
    """Directories of sockets that killed workers left: libguestfs takes them from /tmp, whatever it is told, if it runs
    as root. Live ones are in the kernel's list, even those whose connection was accepted. Blocking.
    """
    live = Path("/proc/net/unix").read_text()
    for path in top.glob("libguestfs??????"):
        try:
            state = path.lstat()
            young = time.time() - state.st_mtime < SOCKET_GRACE_S
            ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()
            if young or not ours or f"{path}/" in live or not (path / _SOCKET).is_socket():
                continue
            (path / _SOCKET).unlink()
            path.rmdir()
        except OSError:
            continue  # it holds something else, or another agent was quicker


def _host() -> str:
    return f"{platform.node()} {platform.release()}"
