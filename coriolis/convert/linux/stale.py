"""What an initramfs built for one host knows of its old disks, and what to put in its place. Pure.

dracut writes such things by default: arguments for root and resume, hooks and systemd units that wait for a device, the
list of devices that LVM may use. A file of an archive cannot be deleted by a later one, only replaced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coriolis.convert.linux import bootfiles, lvm
from coriolis.convert.linux.image import Files
from coriolis.convert.text import decode, encode, shown

MAX_STALE_BYTES = 256 << 10
_ARGUMENTS = re.compile(r"(^|/)(etc/cmdline\.d/[^/]+\.conf|etc/cmdline|conf/conf\.d/[^/]+|etc/kernel/cmdline)$")
_FSTAB = re.compile(r"^(etc/fstab|etc/fstab\.sys|etc/fstab\.empty)$")
_CRYPTTAB = re.compile(r"^(etc/crypttab|cryptroot/crypttab)$")
_WAIT_HOOK = re.compile(r"(^|/)dracut/hooks/initqueue/(?:finished|settled|timeout)/[^/]*devexists-([^/]+)\.sh$")
_OLD_WAIT_HOOK = re.compile(r"(^|/)(?:initqueue-finished|initqueue/finished)/[^/]*devexists-([^/]+)\.sh$")
_DEVICE_UNIT = re.compile(r"^(etc/systemd/system)/[^/]+\.target\.(?:wants|requires)/(dev-[^/]+\.device)$")
_UNIT_TIMEOUT = re.compile(r"^etc/systemd/system/(dev-[^/]+\.device)\.d/timeout\.conf$")
_LVM_DEVICES = "etc/lvm/devices/system.devices"
_LVM_SETTINGS = "etc/lvm/lvm.conf"
_SHORT_WAIT = b"[Unit]\nJobTimeoutSec=1\nJobRunningTimeoutSec=1\n"


@dataclass(frozen=True, slots=True)
class Replacement:
    """``data`` for the file ``name``; None: a link that leads nowhere, so that the file counts as absent."""

    name: str
    data: bytes | None
    why: str


def replacements(files: Files, uuid_of: bootfiles.UuidOf) -> list[Replacement]:
    """What the appended archive must override, in the order of the names."""
    found = []
    for name, member in sorted(files.items()):
        if not name.isascii() or len(member.data) > MAX_STALE_BYTES:
            continue
        one = _for_file(name, bytes(member.data), uuid_of) if member.is_file else None
        if one is None:
            unit = _DEVICE_UNIT.match(name)
            if unit and names_old_hardware(unescaped(unit[2].removesuffix(".device"))):
                path = f"{unit[1]}/{unit[2]}.d/timeout.conf"
                # Without a file to replace its directory may be absent; dracut always writes both.
                one = Replacement(path, _SHORT_WAIT, f"no long wait for {shown(unit[2])}") if path in files else None
        if one is not None:
            found.append(one)
    return list({one.name: one for one in found}.values())


def _for_file(name: str, data: bytes, uuid_of: bootfiles.UuidOf) -> Replacement | None:
    if name == _LVM_DEVICES:
        return Replacement(name, None, "LVM may use every disk")
    hook = _WAIT_HOOK.search(name) or _OLD_WAIT_HOOK.search(name)
    if hook:
        device = unescaped_hook(hook[2])
        return Replacement(name, b"", f"no wait for {shown(device)}") if names_old_hardware(device) else None
    if name == _LVM_SETTINGS:
        settings = encode(lvm.without_old_filters(decode(data)))
        return Replacement(name, settings, "LVM may use disks of any bus") if settings != data else None
    if _UNIT_TIMEOUT.match(name):
        return None  # by way of the unit that wants it
    change = next(
        (
            change
            for pattern, change in (
                (_ARGUMENTS, bootfiles.kernel_arguments_by_uuid),
                (_FSTAB, bootfiles.fstab_by_uuid),
                (_CRYPTTAB, bootfiles.crypttab_by_uuid),
            )
            if pattern.search(name)
        ),
        None,
    )
    if change is None:
        return None
    old = decode(data)
    new = change(old, uuid_of)
    return Replacement(name, encode(new), "disks by UUID") if new != old else None


def names_old_hardware(device: str) -> bool:
    """Whether a device's name depends on the bus or the make of its disk."""
    return re.fullmatch(bootfiles.BUS_NAME, device) is not None


def unescaped(unit: str) -> str:
    """The path that systemd wrote as a unit's name (systemd-escape(1)): ``dev-sda2`` is ``/dev/sda2``."""
    return "/" + _hexadecimal(unit.replace("-", "/"))


def unescaped_hook(text: str) -> str:
    """The path that dracut wrote into a hook's name: ``\\x2fdev\\x2fsda1`` is ``/dev/sda1``."""
    return _hexadecimal(text)


def _hexadecimal(text: str) -> str:
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
