"""Which file systems make up the guest: the root by its release file and fstab, the rest by that fstab.

Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from coriolis.convert.text import shown
from coriolis.errors import Unsupported

ROOT_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
MOUNTED_TOO = ("/boot", "/boot/efi", "/efi", "/usr", "/var", "/var/lib")
MAX_FILE_SYSTEMS = 200
MAX_SUBVOLUMES = 500
MAX_ROOT_CANDIDATES = 40
_SUBVOLUME = re.compile(r"btrfsvol:(/dev/(?:[sv]d[a-z]+\d*|md\d+|[^/]+/[^/]+))/(.+)")
_FIRST_SUBVOLUMES = ("@", "root", "rootfs", "@rootfs", "@/.snapshots/1/snapshot")
_MOUNT_OPTION = re.compile(r"(subvol=[^\s,]{1,200}|subvolid=\d{1,20})")

Resolve = Callable[[str], str | None]
"""A device as fstab names it -> the appliance's device, None when there is none."""


@dataclass(frozen=True, slots=True)
class Root:
    """One candidate: a file system that has a release file and an fstab. ``device`` as libguestfs mounts it."""

    device: str
    fstab: str


@dataclass(frozen=True, slots=True)
class Mount:
    """``options``: of a btrfs subvolume, empty otherwise."""

    point: str
    device: str
    options: str = ""


def split_file_systems(systems: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """(device -> type, btrfs subvolumes as libguestfs names them). Raises Unsupported when there are too many."""
    plain = {name: kind for name, kind in systems.items() if not name.startswith("btrfsvol:")}
    subvolumes = sorted(name for name in systems if name.startswith("btrfsvol:"))
    if len(plain) > MAX_FILE_SYSTEMS:
        raise Unsupported(f"the disks hold more than {MAX_FILE_SYSTEMS} file systems")
    if len(subvolumes) > MAX_SUBVOLUMES:
        raise Unsupported(f"the disks hold more than {MAX_SUBVOLUMES} btrfs subvolumes; remove old snapshots")
    return plain, subvolumes


def root_subvolumes(subvolumes: list[str]) -> list[str]:
    """Those where a root may be, the usual names first; nested ones last, for they are mostly snapshots."""

    def order(name: str) -> tuple[int, int, str]:
        match = _SUBVOLUME.fullmatch(name)
        path = match[2] if match else name
        usual = _FIRST_SUBVOLUMES.index(path) if path in _FIRST_SUBVOLUMES else len(_FIRST_SUBVOLUMES)
        return usual, path.count("/"), path

    return sorted(subvolumes, key=order)[:MAX_ROOT_CANDIDATES]


def is_its_own_root(root: Root) -> bool:
    """Whether the fstab found in a subvolume mounts that very subvolume as root: in a snapshot it names another."""
    match = _SUBVOLUME.fullmatch(root.device)
    if match is None:
        return True
    for fields in _entries(root.fstab):
        if fields[1] == "/":
            named = [one.removeprefix("subvol=").lstrip("/") for one in _options(fields) if one.startswith("subvol=")]
            return not named or named[-1] == match[2]
    return True


def only_root(roots: list[Root], closed: list[str]) -> Root:
    """The one root there is. ``closed``: encrypted devices that no passphrase opened.

    Raises Unsupported for none and for several.
    """
    if len(roots) == 1:
        return roots[0]
    if roots:
        names = ", ".join(shown(root.device) for root in roots)
        raise Unsupported(f"the disks hold {len(roots)} Linux systems ({names}); only one can be converted")
    if closed:
        names = ", ".join(shown(name) for name in closed)
        raise Unsupported(
            f"no Linux system was found in the guest: {names} is encrypted (LUKS), and no given passphrase opens it"
        )
    raise Unsupported("no Linux system was found in the guest: no file system has /etc/fstab and a release file")


def mounts(root: Root, resolve: Resolve) -> tuple[list[Mount], list[str]]:
    """(what to mount in this order, messages about what fstab names and nobody has)."""
    found = {"/": Mount("/", root.device)}
    messages = []
    for fields in _entries(root.fstab):
        point = posixpath.normpath(fields[1])
        if point not in MOUNTED_TOO or fields[2] in ("none", "bind") or "bind" in _options(fields):
            continue
        device = resolve(fields[0])
        if device is None:
            messages.append(f"fstab mounts {shown(fields[0])} on {shown(point)}, but no disk has it")
        else:
            options = [one for one in _options(fields) if _MOUNT_OPTION.fullmatch(one)] if fields[2] == "btrfs" else []
            found[point] = Mount(point, device, ",".join(options))
    return sorted(found.values(), key=lambda one: one.point), messages


def root_name(fstab: str) -> str:
    """What fstab calls the root's device; empty when it does not say."""
    return next((fields[0] for fields in _entries(fstab) if fields[1] == "/"), "")


def plain_device(device: str) -> str:
    """The device of a subvolume as libguestfs names it, any other as it is."""
    match = _SUBVOLUME.fullmatch(device)
    return match[1] if match else device


def _entries(fstab: str) -> list[list[str]]:
    lines = (line.split() for line in fstab.splitlines() if not line.lstrip().startswith("#"))
    return [[fields[0].strip("\"'"), *fields[1:]] for fields in lines if len(fields) >= 3]


def _options(fields: list[str]) -> list[str]:
    return fields[3].split(",") if len(fields) > 3 else []


def appliance_device(name: str) -> str:
    """``/dev/sdb1`` for the guest's ``/dev/vdb1``, ``/dev/xvdb1`` or ``/dev/nvme1n1p1``: disks keep their
    order.
    """
    nvme = re.fullmatch(r"/dev/nvme(\d{1,2})n1(?:p(\d+))?", name)
    if nvme and int(nvme[1]) < 26:
        return f"/dev/sd{chr(ord('a') + int(nvme[1]))}{nvme[2] or ''}"
    return re.sub(r"^/dev/(?:vd|hd|xvd)(?=[a-z])", "/dev/sd", name)


def same_lvm(name: str) -> str:
    """``/dev/vg/lv`` for ``/dev/mapper/vg-lv``: how libguestfs lists logical volumes."""
    match = re.fullmatch(r"/dev/mapper/((?:[^-]|--)+)-((?:[^-]|--)+)", name)
    return f"/dev/{match[1].replace('--', '-')}/{match[2].replace('--', '-')}" if match else name
