"""The kernels of a guest: their module trees, their initramfs files, and what beside them is left alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import modules
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.text import shown
from coriolis.errors import Unsupported

MAX_KERNELS = 32
_INITRAMFS_NAME = re.compile(r"^(?:initrd\.img-|initrd-|initramfs-)([0-9][A-Za-z0-9_.+~-]*?)(?:\.img)?$")
_VERSION = re.compile(r"[0-9][A-Za-z0-9_.+~-]{0,200}")
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_TYPE_1_TOPS = ("/boot", "/boot/efi", "/efi")
_KERNEL_NAMES = ("vmlinuz-{}", "vmlinux-{}", "Image-{}")
_NOT_FOR_BOOT = ("kdump", "rescue")


@dataclass(frozen=True, slots=True)
class Initramfs:
    """A file and the kernel it is for."""

    path: str
    version: str


@dataclass(frozen=True, slots=True)
class Kernels:
    """``images``: those that can be converted. ``bare``: versions with a module tree and a kernel but no initramfs.

    ``left``: sentences about what is left alone.
    """

    images: tuple[Initramfs, ...]
    bare: tuple[str, ...]
    left: tuple[str, ...]


def installed(guest: Guest) -> Kernels:
    """Reads names only. Raises Unsupported for more than 32 kernels."""
    images, left = [], []
    for path, version in _candidates(guest):
        if any(word in path for word in _NOT_FOR_BOOT):
            left.append(f"left alone: {shown(path)} is an image for rescue or crash dumps")
        elif not has_modules(guest, version):
            left.append(f"left alone: {shown(path)} has no module tree /lib/modules/{shown(version)}")
        else:
            images.append(Initramfs(path, version))
    with_image = {one.version for one in images}
    names = set(guest.listdir("/boot"))
    bare = [
        version
        for version in guest.listdir("/lib/modules")
        if version not in with_image
        and _VERSION.fullmatch(version)
        and any(name.format(version) in names for name in _KERNEL_NAMES)
        and has_modules(guest, version)
    ]
    if len(images) + len(bare) > MAX_KERNELS:
        raise Unsupported(f"the guest has more than {MAX_KERNELS} kernels; remove old ones")
    return Kernels(tuple(images), tuple(bare), tuple(left))


def is_initramfs(guest: Guest, path: str) -> bool:
    """Whether ``path`` is a file that ``installed`` could have named: what a record says is not trusted."""
    return path in {candidate for candidate, _ in _candidates(guest)}


def _candidates(guest: Guest) -> list[tuple[str, str]]:
    found = []
    for name in guest.listdir("/boot"):
        match = _INITRAMFS_NAME.match(name)
        if match and guest.is_file(f"/boot/{name}"):
            found.append((f"/boot/{name}", match[1]))
    machine = read_text(guest, "/etc/machine-id").strip()
    if _MACHINE_ID.fullmatch(machine):  # boot loader specification, type 1
        for top in _TYPE_1_TOPS:
            for version in guest.listdir(f"{top}/{machine}"):
                path = f"{top}/{machine}/{version}/initrd"
                if _VERSION.fullmatch(version) and guest.is_file(path):
                    found.append((path, version))
    return found


def has_modules(guest: Guest, version: str) -> bool:
    return guest.is_file(f"/lib/modules/{version}/modules.dep")


def needed_modules(guest: Guest, platform: TargetPlatform, version: str) -> modules.Closure:
    """The closure of the platform's drivers for one kernel.

    Raises Unsupported when a required one is absent.
    """
    tree = f"/lib/modules/{version}"
    dep = modules.parse_dep(read_text(guest, f"{tree}/modules.dep"))
    builtin = modules.parse_builtin(read_text(guest, f"{tree}/modules.builtin"))
    found = modules.closure(dep, builtin, platform.initramfs_modules)
    lost = [name for name in platform.required if name in found.absent]
    if lost:
        raise Unsupported(f"kernel {shown(version)} of the guest has no driver {', '.join(lost)} for {platform.name}")
    return found


def loadable(guest: Guest, names: tuple[str, ...]) -> list[str]:
    """Those of ``names`` that at least one kernel has as a module, in their order."""
    known: set[str] = set()
    for version in guest.listdir("/lib/modules")[:MAX_KERNELS]:
        known |= set(modules.parse_dep(read_text(guest, f"/lib/modules/{version}/modules.dep")))
    return [name for name in names if name in known]
