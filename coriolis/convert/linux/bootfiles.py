"""Text edits that make boot files independent of the disk's bus: ``/dev/sdXN`` becomes ``UUID=``. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from coriolis.convert.text import decode, encode
from coriolis.errors import Unsupported

DISK_NAME = r"/dev/(?:(?:sd|vd|hd|xvd)[a-z]{1,3}\d*|nvme\d+n\d+(?:p\d+)?)"
BY_PATH = r"/dev/disk/by-(?:path|id)/(?!lvm-pv-uuid-|dm-uuid-|dm-name-|md-uuid-|md-name-)[^\s\"']+"
MULTIPATH = r"/dev/mapper/mpath[a-z]+(?:(?:p|-part)?\d+)?"
BUS_NAME = rf"(?:{DISK_NAME}|{BY_PATH}|{MULTIPATH})"
"""Names of disks that depend on their bus, their make or their number of paths."""
_FSTAB_DEVICE = re.compile(rf"(?m)^([ \t]*)({BUS_NAME})(?=[ \t])")
_FSTAB_UNSTABLE = re.compile(rf"(?m)^[ \t]*({BUS_NAME})[ \t]+(\S+)[ \t]+(\S+)(?:[ \t]+(\S+))?")
_CRYPTTAB_DEVICE = re.compile(rf"(?m)^([ \t]*[^\s#]\S*[ \t]+)({BUS_NAME})(?=\s|$)")
_CRYPTTAB_LINE = re.compile(rf"(?m)^[ \t]*[^\s#]\S*[ \t]+{BUS_NAME}(?:[ \t]+(\S+))?(?:[ \t]+(\S+))?")
_KERNEL_ARGUMENT = re.compile(rf"(?<![\w.-])(root|resume|RESUME)=({BUS_NAME})(?![\w/])")
_UNSTABLE_ARGUMENT = re.compile(rf"(?<![\w.-])(?:root|resume|RESUME)=(?:{BUS_NAME})(?![\w/])")
_NO_UUID_SETTING = re.compile(r"(?m)^[ \t]*(GRUB_DISABLE_LINUX_(?:PART)?UUID=)")
_LINUX_LINE = re.compile(r"(?mi)^[ \t]*(?:linux(?:16|efi)?|kernel)[ \t]+(\S+)([^\n]*)$")
_ARGUMENT_LINE = re.compile(r"(?mi)^[ \t]*(?:append|options)[ \t]+([^\n]*)$")
_ENTRY_START = re.compile(r"(?mi)^[ \t]*label[ \t]+\S")
_KERNEL_NAME = re.compile(r"vmlinu[xz]-(\S+)$|/([0-9][^/\s]*)/linux$")
_DEVICE_ARGUMENT = re.compile(r"(?<![\w.-])root=([^\s\"']+)")
_VARIABLE = re.compile(r"\$\{?kernelopts\b")
GRUBENV_BYTES = 1024
_GRUBENV_HEAD = "# GRUB Environment Block\n"

UuidOf = Callable[[str], str | None]
"""A guest's device name (any bus) -> the UUID of the file system or swap on it."""


def fstab_by_uuid(text: str, uuid_of: UuidOf) -> str:
    """``/etc/fstab`` with disk names replaced where the UUID is known; comments and spacing stay."""
    return _FSTAB_DEVICE.sub(lambda m: m[1] + _by_uuid(m[2], uuid_of), text)


def kernel_arguments_by_uuid(text: str, uuid_of: UuidOf) -> str:
    """``root=`` and ``resume=`` of a GRUB configuration, a BLS entry or a command line, by UUID."""
    return _KERNEL_ARGUMENT.sub(lambda m: f"{m[1]}={_by_uuid(m[2], uuid_of)}", text)


def crypttab_by_uuid(text: str, uuid_of: UuidOf) -> str:
    """``/etc/crypttab`` with the encrypted devices by UUID."""
    return _CRYPTTAB_DEVICE.sub(lambda m: m[1] + _by_uuid(m[2], uuid_of), text)


def grubenv_by_uuid(block: str, uuid_of: UuidOf) -> str:
    """GRUB's environment block (RHEL 8 keeps ``root=`` there), which always has 1024 bytes.

    Raises Unsupported when the longer names do not fit. A file of another shape is given back as it is.
    """
    if not block.startswith(_GRUBENV_HEAD) or len(encode(block)) != GRUBENV_BYTES:
        return block
    changed = kernel_arguments_by_uuid(block, uuid_of)
    if changed == block:
        return block
    body = encode(changed.rstrip("#"))
    if len(body) > GRUBENV_BYTES:
        raise Unsupported("GRUB's environment block has no room for the UUIDs of the guest's disks")
    return decode(body + b"#" * (GRUBENV_BYTES - len(body)))


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


def unstable_crypttab_lines(text: str) -> list[str]:
    """Entries that still depend on a bus; swap with a random key and what need not open at boot is left out."""
    found = []
    for match in _CRYPTTAB_LINE.finditer(text):
        options = (match[2] or "").split(",")
        if match[1] not in ("/dev/urandom", "/dev/random") and "noauto" not in options and "nofail" not in options:
            found.append(match[0].strip())
    return found


def with_drivers(names: Iterable[str]) -> str:
    """A file for ``/etc/dracut.conf.d``: ``names`` go into every initramfs that dracut makes later."""
    return f'# Written by Coriolis: drivers of the platform this guest moved to.\nadd_drivers+=" {" ".join(names)} "\n'


def with_initrd_modules(text: str, names: Iterable[str]) -> str:
    """``/etc/sysconfig/kernel`` of older SUSE with ``names`` in INITRD_MODULES, each once."""

    def longer(match: re.Match[str]) -> str:
        present = match[2].split()
        return match[1] + " ".join([*present, *(name for name in names if name not in present)]) + match[3]

    return re.sub(r'(?m)^(INITRD_MODULES=")([^"\n]*)(")', longer, text)


def needed_devices(text: str) -> list[str]:
    """Devices of the fstab that must be there at boot: file systems and swap, no network and no pseudo ones."""
    found = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split()
        options = fields[3].split(",") if len(fields) > 3 else []
        is_device = bool(fields) and fields[0].startswith(("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="))
        if is_device and len(fields) > 2 and "noauto" not in options and "nofail" not in options:
            found.append(fields[0])
    return [one for one in found if not re.match(r"/dev/(?:loop|zram|cdrom|sr|fd|shm|dvd)", one)]


def unstable_arguments(text: str) -> list[str]:
    """``root=`` and ``resume=`` that depend on a bus, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [match[0] for line in lines for match in _UNSTABLE_ARGUMENT.finditer(line)]


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One kernel line. ``version`` is what follows ``vmlinuz-``; empty when the name says none.

    ``root``: the device after ``root=``, empty when the entry has none; ``variable``: its arguments are those in
    ``kernelopts`` of GRUB's environment.
    """

    kernel: str
    version: str
    arguments: str

    @property
    def root(self) -> str:
        return root_argument(self.arguments)

    @property
    def variable(self) -> bool:
        return _VARIABLE.search(self.arguments) is not None


def boot_entries(text: str) -> list[BootEntry]:
    """Linux entries of a GRUB configuration, a BLS file or a syslinux one, in order; those of memory testers and the
    like are left out.
    """
    lines = list(_LINUX_LINE.finditer(text))
    starts = [match.start() for match in _ENTRY_START.finditer(text)]
    found, before = [], -1
    for at, match in enumerate(lines):
        end = lines[at + 1].start() if at + 1 < len(lines) else len(text)
        # BLS and syslinux put the arguments on a line of their own, syslinux even before the kernel's
        label = starts[nearest - 1] if (nearest := bisect_left(starts, match.start())) else -1
        begin, before = label if label > before else match.start(), match.start()
        more = " ".join(line[1] for line in _ARGUMENT_LINE.finditer(text, begin, end))
        arguments = f"{match[2]} {more}".strip()
        name = _KERNEL_NAME.search(match[1])
        if name or "root=" in arguments:
            found.append(BootEntry(match[1], (name[1] or name[2]) if name else "", arguments))
    return found


def root_argument(text: str) -> str:
    """What the last ``root=`` of a command line names, empty when there is none; the kernel takes the last too."""
    found = _DEVICE_ARGUMENT.findall(text)
    return found[-1].removeprefix("block:") if found else ""


def kernel_options(text: str) -> str:
    """``kernelopts=`` of a GRUB environment block or a ``set kernelopts=`` of a configuration, empty without one."""
    match = re.search(r"(?m)^[ \t]*(?:set[ \t]+)?kernelopts=([^\n]*)$", text)
    return match[1].strip("\"'") if match else ""


def _by_uuid(device: str, uuid_of: UuidOf) -> str:
    uuid = uuid_of(device)
    return f"UUID={uuid}" if uuid else device
