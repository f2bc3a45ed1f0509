"""The process that looks into guests: ``python -m coriolis.convert.guest_worker PARENT_PID``.

One JSON line on stdin is the request; the process ends with its parent, even
with one that died before this began. JSON lines on stdout: ``{"event": text}`` any
number of times, last ``{"result": {...}}`` or ``{"error": {"code": ..., "message": ...}}``. Requests:

* ``{"op": "probe", "accelerator", "memory_mb"}``: start an appliance and stop it;
* ``{"op": "convert", "accelerator", "memory_mb", "disks", "job"}``: ``job`` has the fields of ``plugin.Job``;
* ``{"op": "inspect", ...}``: the same, but only planned.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from coriolis.convert.before_mount import run_before_mount
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Job, Nic, Say, Script
from coriolis.convert.plugins import convert_guest, preview
from coriolis.errors import CoriolisError, InvalidInput
from coriolis.parent import die_with_parent

MAX_REQUEST_BYTES = 8 << 20  # sixteen scripts of 64 KiB, escaped
MAX_ADDRESS_SPACE_BYTES = 8 << 30  # this process and, each for itself, the appliance
LUKS_MEMORY_MB = 2048
MAX_FILE_BYTES = 8 << 30  # the appliance's own sparse root has 4 GiB


def convert(request: dict[str, Any], say: Say) -> dict[str, Any]:
    """Convert the guest on ``request["disks"]`` in place; the facts for ``ConversionSummary``."""
    from coriolis.convert.guestfs_guest import launched  # needs libguestfs
    from coriolis.convert.mount import mount_guest

    job = job_from(request["job"])
    times: dict[str, float] = {}
    started = time.monotonic()
    memory_mb = appliance_memory_mb(request["memory_mb"], job)
    with launched(request["disks"], request["accelerator"], memory_mb, network=job.package_network) as handle:
        times["launch"] = time.monotonic() - started
        say(f"appliance started ({request['accelerator']}) in {times['launch']:.1f} s")
        run_before_mount(handle, job.scripts, say)
        guest = mount_guest(handle, job.passphrases, say)
        times["mount"] = time.monotonic() - started - times["launch"]
        system, facts = convert_guest(guest, job, say)
    times["total"] = time.monotonic() - started
    return {
        "system": asdict(system),
        "facts": asdict(facts),
        "times": {step: round(seconds, 1) for step, seconds in times.items()},
    }


def inspect(request: dict[str, Any], say: Say) -> dict[str, Any]:
    """What the guest on ``request["disks"]`` is and what conversion would do; nothing is written to a file of it."""
    from coriolis.convert.guestfs_guest import launched
    from coriolis.convert.mount import mount_guest

    job = job_from(request["job"])
    with launched(request["disks"], request["accelerator"], appliance_memory_mb(request["memory_mb"], job)) as handle:
        plan = preview(lambda: mount_guest(handle, job.passphrases, say), job)
    return {
        "system": asdict(plan.system),
        "steps": [{"name": step.name, "title": step.title} for step in plan.steps],
        "findings": [asdict(finding) for finding in plan.findings],
    }


def appliance_memory_mb(asked_mb: int, job: Job) -> int:
    """LUKS 2 takes up to 1 GiB to turn a passphrase into a key (argon2id), which must fit beside the appliance."""
    return max(asked_mb, LUKS_MEMORY_MB) if job.passphrases else asked_mb


def job_from(document: dict[str, Any]) -> Job:
    """The ``Job`` of a request: its fields, the platform by name."""
    return Job(
        **{
            **document,
            "platform": target_platform(document["platform"]),
            "nics": tuple(Nic(**nic) for nic in document["nics"]),
            "scripts": tuple(Script(**script) for script in document["scripts"]),
            "passphrases": tuple(document["passphrases"]),
        }
    )


def probe(request: dict[str, Any], say: Say) -> dict[str, Any]:
    """Whether an appliance starts at all with ``request["accelerator"]``."""
    from coriolis.convert.guestfs_guest import launched

    with launched((), request["accelerator"], request["memory_mb"]):
        say(f"appliance started ({request['accelerator']})")
    return {}


OPERATIONS: dict[str, Callable[[dict[str, Any], Say], dict[str, Any]]] = {
    "convert": convert,
    "inspect": inspect,
    "probe": probe,
}


def answer(line: bytes, say: Say) -> dict[str, Any]:
    """The last line to print for a request: a result or an error of ours."""
    try:
        request = json.loads(line)
        operation = OPERATIONS.get(request.get("op"))
        if operation is None:
            raise InvalidInput("the worker was asked for an operation it does not know")
        return {"result": operation(request, say)}
    except CoriolisError as error:
        return {"error": {"code": error.code, "message": error.message}}


def main() -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not break the JSON lines
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, MAX_ADDRESS_SPACE_BYTES),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
    ):
        resource.setrlimit(kind, (limit, limit))
    die_with_parent(int(sys.argv[1]))  # libguestfs's own recovery process then ends the appliance
    line = sys.stdin.buffer.readline(MAX_REQUEST_BYTES)

    def say(text: str) -> None:
        out.write(json.dumps({"event": text}) + "\n")

    out.write(json.dumps(answer(line, say)) + "\n")
    out.flush()
    os._exit(0)  # nothing is left to do


if __name__ == "__main__":
    main()
