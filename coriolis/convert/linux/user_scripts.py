"""An operator's scripts: checked when planned; run in the guest's tree, or laid down for the first boot.

Their code never runs on the agent's host: only inside of the appliance, or later in the guest itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from coriolis.convert.guest import Guest
from coriolis.convert.plugin import Finding, Say, Script
from coriolis.convert.text import encode, shown
from coriolis.errors import InvalidInput, TimedOut, Unavailable

MAX_SCRIPTS = 16
MAX_SCRIPT_BYTES = 64 << 10
SCRIPT_TIMEOUT_S = 300.0
MAX_SAID_LINES = 20
_DIRECTORY = "/var/lib/coriolis/scripts"


def findings(scripts: Sequence[Script]) -> list[Finding]:
    """What is wrong with the scripts themselves."""
    found = []
    if len(scripts) > MAX_SCRIPTS:
        found.append(Finding("error", "TOO_MANY_SCRIPTS", f"{len(scripts)} scripts are more than {MAX_SCRIPTS}"))
    for script in scripts:
        size = len(encode(script.payload))
        if size > MAX_SCRIPT_BYTES:
            message = f"the script {shown(script.name)} has {size} bytes, more than {MAX_SCRIPT_BYTES}"
            found.append(Finding("error", "SCRIPT_TOO_LARGE", message))
    return found


def executable(script: Script) -> bytes:
    """The file to run: without a first line that names an interpreter it is one of sh. Line ends of Windows go."""
    text = script.payload.replace("\r\n", "\n")
    return encode(text if text.startswith("#!") else f"#!/bin/sh\n{text}")


def run_in_tree(guest: Guest, script: Script, say: Say) -> None:
    """Run it with the guest's root as ``/``. Raises InvalidInput with its last words when it does not end well."""
    path = f"{_DIRECTORY}/{script.phase}"
    guest.write(path, executable(script), 0o700)
    try:
        output = guest.run([path], timeout_s=SCRIPT_TIMEOUT_S)
    except TimedOut as error:
        message = f"the script {shown(script.name)} did not end in {SCRIPT_TIMEOUT_S:.0f} s: {error.message}"
        raise InvalidInput(message) from error
    except Unavailable as error:
        raise InvalidInput(f"the script {shown(script.name)} failed: {error.message}") from error
    finally:
        guest.remove(path)
    say_output(script, output, say)


def say_output(script: Script, output: str, say: Say) -> None:
    """The last lines of what a script printed, each bounded and escaped."""
    lines = [line for line in output.splitlines() if line.strip()]
    say(f"script {shown(script.name)} ended well" + (f"; last of its {len(lines)} lines:" if lines else ""))
    for line in lines[-MAX_SAID_LINES:]:
        say(f"script {shown(script.name)}: {shown(line)}")
