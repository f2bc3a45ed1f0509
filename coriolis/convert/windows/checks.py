"""What stands in the way of a Windows guest's conversion: findings with what to do. Reads only."""

from __future__ import annotations

from coriolis.convert.guest import Guest
from coriolis.convert.plugin import Finding
from coriolis.convert.text import shown
from coriolis.convert.windows.paths import DRIVE, WINDOWS, place
from coriolis.convert.windows.registry import Hive
from coriolis.convert.windows.state import WindowsState
from coriolis.convert.windows.version import WindowsVersion
from coriolis.convert.windows.volume import OnVolume, VolumeFacts

_HIBERNATED = (b"hibr", b"rstr")
_SHUT_DOWN = "start Windows, shut it down fully (shutdown /s /f /t 0) and replicate once more"
_SESSION_MANAGER = r"Control\Session Manager"
_USUAL_CHECK = "autocheck autochk *"


def findings(guest: Guest, state: WindowsState, efi: bool) -> list[Finding]:
    """All that can be seen of the guest itself."""
    found = version_findings(state.version) + power_findings(guest)
    found += pending_findings(guest, state.system, state.current)
    if isinstance(guest, OnVolume):
        found += volume_findings(guest.volume, efi)
    return found


def version_findings(version: WindowsVersion) -> list[Finding]:
    """Pure."""
    what = f"{shown(version.product)} ({version.number})"
    if not version.folder:
        return [
            Finding(
                "error",
                "WINDOWS_UNKNOWN",
                f"{what} is not one of Windows 7 to 11 and Windows Server 2008 R2 to 2025",
                "skip_os_morphing moves it as it is",
            )
        ]
    if version.architecture not in ("amd64", "x86"):
        message = f"{what} is built for {shown(version.architecture) or 'an unknown processor'}, not for amd64 or x86"
        return [Finding("error", "ARCHITECTURE_UNKNOWN", message)]
    if version.build == 7600:
        message = f"{what} lacks Service Pack 1, without which it refuses drivers signed by SHA-2"
        return [Finding("warning", "SERVICE_PACK_ABSENT", message, "install Service Pack 1 and KB3033929 before")]
    return []


def volume_findings(volume: VolumeFacts, efi: bool) -> list[Finding]:
    """Pure."""
    found = []
    if volume.dirty:
        found.append(
            Finding(
                "error",
                "VOLUME_DIRTY",
                "the Windows drive is marked for a check (dirty NTFS)",
                f"run chkdsk; {_SHUT_DOWN}",
            )
        )
    elif volume.read_only:
        found.append(
            Finding("error", "VOLUME_NOT_CLOSED", "the Windows drive was not closed cleanly (NTFS journal)", _SHUT_DOWN)
        )
    if not efi and volume.table == "gpt":
        message = "the machine starts by BIOS, but its disk is partitioned for UEFI (GPT)"
        found.append(Finding("error", "FIRMWARE_MISMATCH", message, "choose UEFI as the firmware"))
    elif not efi and not volume.active:
        message = "no partition of the disk is active: BIOS would start nothing"
        found.append(Finding("error", "NO_ACTIVE_PARTITION", message, "mark the system partition active (diskpart)"))
    return found


def power_findings(guest: Guest) -> list[Finding]:
    """A hibernated Windows, also one shut down with fast start-up, holds part of its disk in hiberfil.sys."""
    path = place(guest, f"{DRIVE}/hiberfil.sys")
    if not guest.is_file(path) or guest.read_at(path, 0, 4).lower() not in _HIBERNATED:
        return []
    return [
        Finding(
            "error",
            "HIBERNATED",
            "Windows is hibernated, or was shut down with fast start-up on",
            f"switch it off (powercfg /h off), {_SHUT_DOWN}",
        )
    ]


def pending_findings(guest: Guest, system: Hive, control_set: str) -> list[Finding]:
    found = []
    key = rf"{control_set}\{_SESSION_MANAGER}"
    unusual = [
        one for one in system.texts(key, "BootExecute") if "autochk" in one.lower() and one.lower() != _USUAL_CHECK
    ]
    if unusual:
        message = f"Windows will check a disk at its next start ({shown(unusual[0])})"
        found.append(Finding("error", "CHECK_PENDING", message, f"let it run; then {_SHUT_DOWN}"))
    servicing = any("poqexec" in one.lower() for one in system.texts(key, "SetupExecute"))
    if servicing or guest.is_file(place(guest, f"{WINDOWS}/WinSxS/pending.xml")):
        message = "updates of Windows are half installed and go on at its next start"
        found.append(Finding("error", "SERVICING_PENDING", message, f"restart Windows once; then {_SHUT_DOWN}"))
    if system.number("Setup", "SystemSetupInProgress"):
        message = "Windows is in the middle of its set-up (sysprep): the first boot ends that before our scripts run"
        found.append(Finding("warning", "SETUP_IN_PROGRESS", message))
    return found
