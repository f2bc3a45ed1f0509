"""Scripts that operators give a job, in the published form: ``{"global": {os_type: S}, "instances": {instance: S}}``.

``S`` is a string, null, or a list of ``{"payload": str, "phase"?: str}``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from coriolis.errors import InvalidInput

OS_TYPES = ("bsd", "linux", "osx", "solaris", "windows")
PHASES = ("osmorphing_pre_os_mount", "osmorphing_post_os_mount", "replica_first_boot")
DEFAULT_PHASE = "osmorphing_post_os_mount"
MAX_SCRIPT_BYTES = 64 << 10
MAX_SCRIPTS = 16
"""For one machine: global ones and its own."""
MAX_ALL_BYTES = 256 << 10
"""Of a job: they are stored with it."""


class UserScript(msgspec.Struct, frozen=True):
    """``name`` says where it comes from: ``global linux 1``, ``instance 2``."""

    phase: str
    name: str
    payload: str


def checked(document: Mapping[str, Any], instances: Collection[str]) -> dict[str, Any]:
    """The document without nulls and empty members. Raises InvalidInput naming the wrong member."""
    if unknown := set(document) - {"global", "instances"}:
        raise InvalidInput(f"user_scripts: unknown member {sorted(map(str, unknown))[0][:60]!r}")
    found: dict[str, Any] = {}
    for member, known in (("global", OS_TYPES), ("instances", tuple(instances))):
        given = document.get(member)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise InvalidInput(f"user_scripts.{member} must be an object")
        kept = {}
        for key, value in given.items():
            if key not in known:
                which = "one of " + ", ".join(OS_TYPES) if member == "global" else "an instance of this job"
                raise InvalidInput(f"user_scripts.{member}.{key[:60]!s} is not {which}")
            if value is not None:
                _listed(value, f"user_scripts.{member}.{key}", "")
                kept[key] = value
        if kept:
            found[member] = kept
    if len(msgspec.json.encode(found)) > MAX_ALL_BYTES:
        raise InvalidInput(f"user_scripts has more than {MAX_ALL_BYTES} bytes")
    for instance in instances:
        if any(len(for_machine(found, os_type, instance)) > MAX_SCRIPTS for os_type in OS_TYPES):
            raise InvalidInput(f"user_scripts has more than {MAX_SCRIPTS} scripts for one machine")
    return found


def for_machine(document: Mapping[str, Any], os_type: str, instance: str) -> tuple[UserScript, ...]:
    """Scripts of a checked document for one machine: the global ones of its type first, then its own."""
    everywhere = document.get("global", {}).get(os_type)
    own = document.get("instances", {}).get(instance)
    return (
        *_listed(everywhere, "user_scripts.global", f"global {os_type}"),
        *_listed(own, "user_scripts.instances", "instance"),
    )


def _listed(value: Any, field: str, name: str) -> list[UserScript]:
    if value is None:
        return []
    entries = [{"payload": value}] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise InvalidInput(f"{field} must be a string, null or a list of objects with payload and phase")
    found = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not set(entry) <= {"payload", "phase"}:
            raise InvalidInput(f"{field}[{number - 1}] must be an object with payload and, if wanted, phase")
        payload, phase = entry.get("payload"), entry.get("phase") or DEFAULT_PHASE
        if not isinstance(payload, str) or not payload.strip():
            raise InvalidInput(f"{field}[{number - 1}].payload is empty")
        if len(payload.encode()) > MAX_SCRIPT_BYTES:
            raise InvalidInput(f"{field}[{number - 1}].payload has more than {MAX_SCRIPT_BYTES} bytes")
        if phase not in PHASES:
            raise InvalidInput(f"{field}[{number - 1}].phase is none of {', '.join(PHASES)}")
        found.append(UserScript(phase, f"{name} {number}", payload))
    return found
