"""A guest in a directory whose programs answer as a test says, converted whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Facts, Job
from coriolis.convert.plugins import convert_guest
from tests.unit.convert.directory_guest import DirectoryGuest, debian

KVM, OPENSTACK, AZURE = (target_platform(name) for name in ("kvm", "openstack", "azure"))
MAC = "00:50:56:9a:11:22"
SCRIPTS = "/usr/local/lib/coriolis/firstboot/scripts"
UNIT_FILE = b"[Service]\n"


class ScriptedGuest(DirectoryGuest):
    """A directory whose programs answer as ``answers`` says, by the first word that is in the command."""

    answers: dict[str, str | Exception]

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        super().run(command, timeout_s=timeout_s)
        for word, answer in self.answers.items():
            if any(word in part for part in command):
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return ""


def run(guest: DirectoryGuest, job: Job) -> tuple[Facts, list[str]]:
    said: list[str] = []
    _, facts = convert_guest(guest, job, said.append)
    return facts, said


def script(guest: DirectoryGuest, name: str) -> str:
    path = guest.path(f"{SCRIPTS}/{name}")
    return path.read_text() if path.exists() else ""


def add_package(guest: DirectoryGuest, *names: str) -> None:
    old = guest.path("/var/lib/dpkg/status").read_bytes()
    rows = "".join(f"\nPackage: {name}\nStatus: install ok installed\n" for name in names)
    guest.write("/var/lib/dpkg/status", old + rows.encode())


def scripted(top: Path) -> ScriptedGuest:
    """A Debian below ``top`` whose programs say nothing yet."""
    made = debian(top)
    found = ScriptedGuest(made.top, made.uuids)
    found.answers = {}
    return found
