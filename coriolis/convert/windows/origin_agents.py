"""What platforms leave in a Windows: services that run and programs that are uninstalled at the first boot.

Storage and network drivers are in no list: with them the machine can go back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coriolis.convert.windows.registry import Hive

UNINSTALL_KEYS = (
    r"Microsoft\Windows\CurrentVersion\Uninstall",
    r"Wow6432Node\Microsoft\Windows\CurrentVersion\Uninstall",
)
MAX_TITLE_CHARS = 200
_PRODUCT_CODE = re.compile(r"\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")


@dataclass(frozen=True, slots=True)
class Vendor:
    """``services`` of its agents and guest-only drivers; ``programs``: expressions over whole display names."""

    name: str
    services: tuple[str, ...]
    programs: tuple[str, ...]


VENDORS = (
    Vendor(
        "vmware",
        ("VMTools", "VGAuthService", "vmvss", "vmci", "vsock", "vsockets", "vmhgfs", "vmmemctl", "vmrawdsk"),
        (r"VMware Tools",),
    ),
    Vendor(
        "xen",
        ("xensvc", "xenlite", "XenInstall", "XenAgent"),
        (r"(Citrix|XenServer|XCP-ng|Xen).*(Tools|Agent|PV Drivers).*",),
    ),
    Vendor(
        "parallels",
        ("prl_tg", "prl_fs", "prl_memdev", "prl_mouf", "Parallels Tools Service", "Parallels Coherence Service"),
        (r"Parallels Tools.*",),
    ),
    Vendor(
        "virtualbox", ("VBoxService", "VBoxGuest", "VBoxSF", "VBoxMouse"), (r"Oracle .*VirtualBox Guest Additions.*",)
    ),
    Vendor("qemu", ("QEMU-GA", "QEMU Guest Agent VSS Provider", "BalloonService"), (r"QEMU guest agent",)),
    Vendor(
        "azure", ("WindowsAzureGuestAgent", "RdAgent", "WindowsAzureTelemetryService"), (r"Windows Azure VM Agent.*",)
    ),
    Vendor(
        "aws",
        ("AWSLiteAgent", "Ec2Config", "Amazon EC2Launch"),
        (r"(Amazon )?EC2Launch.*", r"EC2ConfigService", r"AWS PV Drivers"),
    ),
    Vendor("gcp", ("GCEAgent", "GCEAgentManager", "google_osconfig_agent"), (r"Google .*(Guest|Compute).*",)),
)


def foreign(native: tuple[str, ...]) -> tuple[Vendor, ...]:
    """The vendors whose agents do not belong to a platform."""
    return tuple(vendor for vendor in VENDORS if vendor.name not in native)


@dataclass(frozen=True, slots=True)
class Program:
    """An installed program of a platform. ``code``: of Windows Installer, the only way it is removed by."""

    title: str
    code: str


def installed(software: Hive, vendors: tuple[Vendor, ...]) -> tuple[list[Program], list[str]]:
    """(programs that Windows Installer can remove, titles of those it cannot)."""
    found: list[Program] = []
    stay: list[str] = []
    for top in UNINSTALL_KEYS:
        for name in software.children(top):
            title = software.text(rf"{top}\{name}", "DisplayName").strip()[:MAX_TITLE_CHARS]
            if not any(re.fullmatch(one, title, re.IGNORECASE) for vendor in vendors for one in vendor.programs):
                continue
            code = product_code(name, software.text(rf"{top}\{name}", "UninstallString"))
            if code is None:
                stay.append(title)
            elif code not in (one.code for one in found):
                found.append(Program(title, code))
    return found, stay


def product_code(key: str, uninstall: str) -> str | None:
    """The product code in ``MsiExec.exe /I{...}`` or in the key's own name; no other command of the guest is run."""
    if "msiexec" not in uninstall.lower():
        return None
    match = _PRODUCT_CODE.search(uninstall) or _PRODUCT_CODE.fullmatch(key)
    return match[0].upper() if match else None
