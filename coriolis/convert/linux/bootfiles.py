"""Text edits that make boot files independent of the disk's bus: ``/dev/sdXN`` becomes ``UUID=``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

DISK_NAME = r"/dev/(?:(?:sd|vd|hd|xvd)[a-z]{1,3}\d*|nvme\d+n\d+(?:p\d+)?)"
BY_PATH = r"/dev/disk/by-(?:path|id)/\S+"
_FSTAB_DEVICE = re.compile(rf"(?m)^([ \t]*)({DISK_NAME})(?=[ \t])")
_FSTAB_UNSTABLE = re.compile(rf"(?m)^[ \t]*({DISK_NAME}|{BY_PATH})[ \t]+(\S+)[ \t]+(\S+)(?:[ \t]+(\S+))?")
_KERNEL_ARGUMENT = re.compile(rf"(?<![\w.-])(root|resume)=({DISK_NAME})(?![\w/])")
_UNSTABLE_ARGUMENT = re.compile(rf"(?<![\w.-])(?:root|resume)=(?:{DISK_NAME}|{BY_PATH})(?![\w/])")
_NO_UUID_SETTING = re.compile(r"(?m)^[ \t]*(GRUB_DISABLE_LINUX_(?:PART)?UUID=)")
_LINUX_LINE = re.compile(r"(?m)^[ \t]*(?:linux(?:16|efi)?|kernel)[ \t]+(\S+)([^\n]*)$")
_KERNEL_NAME = re.compile(r"vmlinu[xz]-(\S+)$")

UuidOf = Callable[[str], str | None]
"""A guest's device name (any bus) -> the UUID of the file system or swap on it."""


def fstab_by_uuid(text: str, uuid_of: UuidOf) -> str:
    """``/etc/fstab`` with disk names replaced where the UUID is known; comments and spacing stay."""
    return _FSTAB_DEVICE.sub(lambda m: m[1] + _by_uuid(m[2], uuid_of), text)


def kernel_arguments_by_uuid(text: str, uuid_of: UuidOf) -> str:
    """``root=`` and ``resume=`` of a GRUB configuration, a BLS entry or a command line, by UUID."""
    return _KERNEL_ARGUMENT.sub(lambda m: f"{m[1]}={_by_uuid(m[2], uuid_of)}", text)


def grub_defaults(text: str, uuid_of: UuidOf) -> str:
    """``/etc/default/grub`` such that the guest's next own update writes UUIDs too."""
    return kernel_arguments_by_uuid(_NO_UUID_SETTING.sub(r"#\1", text), uuid_of)


def with_modules(text: str, names: Iterable[str]) -> str:
    """``/etc/initramfs-tools/modules`` with ``names`` added at the end, each once."""
    present = {line.split()[0] for line in text.splitlines() if line.split()}
    added = "".join(f"{name}\n" for name in names if name not in present)
    return (text if not text or text.endswith("\n") else text + "\n") + added if added else text


def unstable_fstab_lines(text: str) -> list[str]:
    """Entries that still depend on a bus and must mount at boot (``noauto`` and ``nofail`` ones need not)."""
    found = []
    for match in _FSTAB_UNSTABLE.finditer(text):
        options = (match[4] or "").split(",")
        removable = match[3] in ("iso9660", "udf", "auto") and "user" in options
        if not removable and "noauto" not in options and "nofail" not in options:
            found.append(match[0].strip())
    return found


def unstable_arguments(text: str) -> list[str]:
    """``root=`` and ``resume=`` that depend on a bus, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [match[0] for line in lines for match in _UNSTABLE_ARGUMENT.finditer(line)]


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One kernel line. ``version`` is what follows ``vmlinuz-``; empty when the name says none."""

    kernel: str
    version: str
    arguments: str


def boot_entries(text: str) -> list[BootEntry]:
    """Linux entries of a GRUB configuration or a BLS file, in order; those of memory testers and the like are
    left out.
    """
    found = []
    for match in _LINUX_LINE.finditer(text):
        name = _KERNEL_NAME.search(match[1])
        if name or "root=" in match[2]:
            found.append(BootEntry(match[1], name[1] if name else "", match[2].strip()))
    return found


def _by_uuid(device: str, uuid_of: UuidOf) -> str:
    uuid = uuid_of(device)
    return f"UUID={uuid}" if uuid else device
