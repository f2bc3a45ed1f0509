"""Which file systems make up the guest: the root by its os-release and fstab, the rest by that fstab.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from coriolis.convert.text import shown
from coriolis.errors import Unsupported

ROOT_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
MOUNTED_TOO = ("/boot", "/boot/efi", "/efi", "/usr", "/var", "/var/lib")
MAX_FILE_SYSTEMS = 200

Resolve = Callable[[str], str | None]
"""A device as fstab names it -> the appliance's device, None when there is none."""


@dataclass(frozen=True, slots=True)
class Root:
    """One candidate: a file system that has both files."""

    device: str
    fstab: str
    os_release: str


def only_root(roots: list[Root], encrypted: bool) -> Root:
    """The one root there is. Raises Unsupported for none and for several."""
    if len(roots) == 1:
        return roots[0]
    if roots:
        names = ", ".join(shown(root.device) for root in roots)
        raise Unsupported(f"the disks hold {len(roots)} Linux systems ({names}); only one can be converted")
    why = "its disk is encrypted" if encrypted else "no file system has both /etc/fstab and os-release"
    raise Unsupported(f"no Linux system was found in the guest: {why}")


def mounts(root: Root, resolve: Resolve) -> tuple[list[tuple[str, str]], list[str]]:
    """((mount point, device) in the order of mounting, messages about what fstab names and nobody has)."""
    found = {"/": root.device}
    messages = []
    for line in root.fstab.splitlines():
        fields = line.split("#", 1)[0].split()
        if len(fields) < 3 or fields[1].rstrip("/") not in MOUNTED_TOO or fields[2] in ("none", "bind"):
            continue
        device = resolve(fields[0].strip("\"'"))
        if device is None:
            messages.append(f"fstab mounts {shown(fields[0])} on {shown(fields[1])}, but no disk has it")
        else:
            found[fields[1].rstrip("/")] = device
    return sorted(found.items()), messages


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
