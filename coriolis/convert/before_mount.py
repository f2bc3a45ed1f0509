"""An operator's scripts of the phase before the mount: run by the appliance's own shell, over disks nobody mounted.

They see the guest's disks as ``/dev/sda``, ``/dev/sdb``, ... and the appliance's tools, not the guest's and not the
host's. libguestfs offers that shell as ``debug sh``, outside of what it promises; where it is missing, the scripts are
refused. Runs in the worker process; standard library only.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from typing import Any

from coriolis.convert.appliance_limit import appliance_limit
from coriolis.convert.guest_shell import guest_command, outcome, timed_out
from coriolis.convert.linux.user_scripts import MAX_SCRIPT_BYTES, SCRIPT_TIMEOUT_S, executable, say_output
from coriolis.convert.plugin import Say, Script
from coriolis.convert.text import shown
from coriolis.errors import InvalidInput, Unsupported

PHASE = "osmorphing_pre_os_mount"
MAX_LAST_WORDS = 300
_PATH = "/tmp/coriolis-script"


def run_before_mount(handle: Any, scripts: Sequence[Script], say: Say) -> None:
    """Run those of the phase, in order. Raises InvalidInput when one does not end well, Unsupported without a shell."""
    for script in scripts:
        if script.phase == PHASE:
            status, output = _run(handle, script)
            if timed_out(status):
                raise InvalidInput(f"the script {shown(script.name)} did not end within {SCRIPT_TIMEOUT_S:.0f} s")
            if status != 0:
                last = shown(output[-MAX_LAST_WORDS:])
                raise InvalidInput(f"the script {shown(script.name)} failed with status {status}: {last}")
            say_output(script, output, say)


def _run(handle: Any, script: Script) -> tuple[int, str]:
    data = executable(script)
    if len(data) > MAX_SCRIPT_BYTES + 16:
        raise InvalidInput(f"the script {shown(script.name)} has {len(data)} bytes, more than {MAX_SCRIPT_BYTES}")
    encoded = base64.b64encode(data).decode()
    command = shlex.join(guest_command([_PATH], SCRIPT_TIMEOUT_S))
    with appliance_limit(handle, SCRIPT_TIMEOUT_S) as ended:
        try:
            answer = handle.debug("sh", [f"echo {encoded} | base64 -d >{_PATH} && chmod 700 {_PATH} && {command}"])
        except (RuntimeError, UnicodeError) as error:
            if ended.is_set():
                message = f"the script {shown(script.name)} did not end within {SCRIPT_TIMEOUT_S:.0f} s"
                raise InvalidInput(message) from error
            raise Unsupported(
                f"the appliance has no shell for the script {shown(script.name)}, which is to run before the mount; "
                f"let it run after the mount: {shown(error)}"
            ) from error
    return outcome(str(answer))
