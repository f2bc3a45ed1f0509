"""The plug-in for Linux guests: one class, told apart by the data of ``families``."""

from __future__ import annotations

import re
import shlex

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import boot_steps, content_steps
from coriolis.convert.linux.families import families
from coriolis.convert.linux.family import LinuxFamily, version_numbers
from coriolis.convert.linux.release import OS_RELEASE, RELEASE_FILES, release_from
from coriolis.convert.linux.verify import verify_boot
from coriolis.convert.plugin import Facts, Finding, Job, Plan, Say, System
from coriolis.convert.text import shown

MAX_VALUE_CHARS = 8192
"""Of os-release: shlex takes time by the square of a word's length."""
_GENERIC = LinuxFamily(name="generic", oldest={})


class LinuxPlugin:
    """Implements ``Plugin`` for one family."""

    def __init__(self, family: LinuxFamily) -> None:
        self._family = family

    @property
    def name(self) -> str:
        return self._family.name

    def detect(self, guest: Guest) -> System | None:
        release = os_release(guest)
        identity, likes = release.get("ID", ""), release.get("ID_LIKE", "").split()
        known = identity in self._family.oldest or any(word in self._family.likes for word in likes)
        return self._system(release) if known or self._family is _GENERIC else None

    def _system(self, release: dict[str, str]) -> System:
        identity, version = release.get("ID", "linux"), release.get("VERSION_ID", "")
        title = release.get("PRETTY_NAME") or f"{identity} {version}"
        return System("linux", self.name, shown(identity), shown(version), shown(title.strip()))

    def plan(self, guest: Guest, system: System, job: Job) -> Plan:
        scripts, script_findings = content_steps.plan_scripts(guest, job)
        boot, boot_findings = boot_steps.plan(guest, self._family, system, job)
        content, content_findings = content_steps.plan(guest, self._family, system, job)
        findings = (*_support(self._family, system), *script_findings, *boot_findings, *content_findings)
        return Plan(system, (*scripts, *boot, *content), findings)

    def verify(self, guest: Guest, system: System, job: Job, facts: Facts, say: Say) -> None:
        verify_boot(guest, job, facts, say)
        content_steps.verify(guest, self._family, job, facts)


def linux_plugins() -> tuple[LinuxPlugin, ...]:
    """One for each family; last the one that takes any Linux."""
    return (*(LinuxPlugin(family) for family in families()), LinuxPlugin(_GENERIC))


def os_release(guest: Guest) -> dict[str, str]:
    """The guest's os-release(5), unquoted, or the like from what older distributions have; empty without any."""
    text = next((text for path in OS_RELEASE if (text := read_text(guest, path))), "")
    return parse_os_release(text) or release_from({path: read_text(guest, path) for path in RELEASE_FILES})


def parse_os_release(text: str) -> dict[str, str]:
    """Assignments of os-release(5); lines that are none are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or not name.isidentifier() or len(value) > MAX_VALUE_CHARS:
            continue
        try:
            found[name] = " ".join(shlex.split(value))
        except ValueError:  # a quote that does not end
            continue
    return found


def _support(family: LinuxFamily, system: System) -> list[Finding]:
    if family is _GENERIC:
        return [
            Finding(
                "warning",
                "GUEST_UNKNOWN",
                f"{system.title} is not a distribution that is known here",
                "drivers, boot files and interface names are converted; packages and cloud-init are left as they are",
            )
        ]
    oldest = family.oldest.get(system.distribution)
    if oldest is None:
        return [Finding("info", "GUEST_DERIVATIVE", f"{system.title} is treated as one of the {family.name} family")]
    number = version_numbers(system.version)
    if number and number < oldest:
        wanted = ".".join(str(part) for part in oldest)
        message = f"{system.title} is older than {wanted}, the oldest that is supported"
        return [Finding("warning", "GUEST_TOO_OLD", message)]
    if number and number < family.best_effort.get(system.distribution, ()):
        message = f"{system.title} is so old that its conversion is tried, not promised"
        return [Finding("warning", "GUEST_BEST_EFFORT", message, "try it once before the day of the move")]
    if system.distribution in family.long_term and not re.fullmatch(
        family.long_term[system.distribution], system.version
    ):
        message = f"{system.title} is no release with long support: it is treated as its nearest one"
        return [Finding("info", "GUEST_SHORT_LIVED", message)]
    return []
