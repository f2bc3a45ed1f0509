"""The plug-in for Windows guests. Nothing of the guest runs: its hives and files are changed from outside."""

from __future__ import annotations

import hashlib

from coriolis.convert.guest import Guest, read
from coriolis.convert.plugin import Facts, Job, Plan, Say, Step, System
from coriolis.convert.text import shown
from coriolis.convert.windows import boot_files, first_boot
from coriolis.convert.windows.checks import findings
from coriolis.convert.windows.paths import place
from coriolis.convert.windows.state import WindowsState, is_windows, load_state, store_state
from coriolis.convert.windows.wanted import NewFile, Wanted, wanted
from coriolis.errors import Corrupt


class WindowsPlugin:
    """Implements ``Plugin``. Hives are read once for detecting, planning and applying; ``verify`` reads them anew."""

    def __init__(self) -> None:
        self._read: tuple[Guest, WindowsState] | None = None

    @property
    def name(self) -> str:
        return "windows"

    def detect(self, guest: Guest) -> System | None:
        if not is_windows(guest):
            return None
        version = self._state(guest).version
        return System(
            os_type="windows",
            family="windows",
            distribution=f"windows-{version.kind}",
            version=shown(version.number),
            title=shown(version.product),
            architecture=shown(version.architecture),
        )

    def plan(self, guest: Guest, system: System, job: Job) -> Plan:
        state = self._state(guest)
        target = wanted(guest, state, job)
        found = (*findings(guest, state, job.efi), *boot_files.boot_findings(guest, job.efi), *target.findings)
        return Plan(system, _steps(guest, state, job, target), found)

    def verify(self, guest: Guest, system: System, job: Job, facts: Facts, say: Say) -> None:
        """Everything that was wanted is worked out again from the disk, and compared with it."""
        state = load_state(guest)
        target = wanted(guest, state, job)
        missing = [*state.system.missing(target.system), *state.software.missing(target.software)]
        if missing:
            raise Corrupt(f"{len(missing)} registry entries are not there, first {shown(missing[0].key)}")
        for file in (*target.drivers, *target.first_boot):
            if _digest(guest, file) != file.sha256:
                raise Corrupt(f"{shown(file.path)} is not what was written")
        scripts = place(guest, first_boot.SCRIPTS)
        expected = {file.path for file in target.first_boot if file.path.startswith(f"{scripts}/")}
        if {f"{scripts}/{name}" for name in guest.listdir(scripts)} != expected:
            raise Corrupt("the first boot would run other scripts than those of this conversion")
        wrong = boot_files.verified(guest, job.efi)
        if wrong:
            raise Corrupt(wrong)
        count = len(target.system) + len(target.software)
        say(f"{count} registry entries and {len(target.drivers) + len(target.first_boot)} files are in place")

    def _state(self, guest: Guest) -> WindowsState:
        if self._read is None or self._read[0] is not guest:
            self._read = (guest, load_state(guest))
        return self._read[1]


def _steps(guest: Guest, state: WindowsState, job: Job, target: Wanted) -> tuple[Step, ...]:
    def drivers(facts: Facts, say: Say) -> None:
        _write(guest, target.drivers)
        facts.modules += target.modules
        facts.packages += target.packages
        say(f"{len(target.drivers)} driver files copied")

    def scripts(facts: Facts, say: Say) -> None:
        for directory in (first_boot.SCRIPTS, first_boot.DONE):  # of a former migration
            top = place(guest, directory)
            for name in guest.listdir(top):
                guest.remove(f"{top}/{name}")
        _write(guest, target.first_boot)
        facts.pins += target.pins

    def hives(facts: Facts, say: Say) -> None:
        state.system.apply(target.system)
        state.software.apply(target.software)
        say(f"registry: {store_state(guest, state)} bytes changed")
        facts.way = "offline"

    def boot(facts: Facts, say: Say) -> None:
        copy = boot_files.fallback_copy(guest) if job.efi else None
        if copy:
            guest.copy(*copy)
            say("EFI/Boot/bootx64.efi made from Microsoft's loader")
        if boot_files.convert_store(guest, job.efi):
            say("the boot store switches graphics on")

    return (
        Step("windows-drivers", f"copy {len(target.drivers)} driver files into Windows", drivers),
        Step("windows-first-boot", f"place {_scripts(target)} for the first boot", scripts),
        Step("windows-registry", f"let Windows start with {', '.join(target.modules) or 'its own drivers'}", hives),
        Step("windows-boot", "make the boot partition fit the firmware", boot),
    )


def _scripts(target: Wanted) -> str:
    names = [file.path.rpartition("/")[2] for file in target.first_boot if "/scripts/" in file.path]
    return ", ".join(sorted(names)) or "nothing"


def _write(guest: Guest, files: list[NewFile]) -> None:
    for file in files:
        guest.write(file.path, file.data())


def _digest(guest: Guest, file: NewFile) -> str:
    if not guest.is_file(file.path) or guest.size(file.path) != file.size:
        return ""
    return hashlib.sha256(read(guest, file.path, file.size)).hexdigest()
