"""An initramfs as the kernel sees it once everything is unpacked: a later file of the same name wins."""

from __future__ import annotations

import re
from collections.abc import Mapping

from coriolis.convert.linux import compression, cpio, initramfs
from coriolis.convert.linux.modules import module_name
from coriolis.errors import Corrupt, Unsupported

MAX_SEGMENTS = 64
_MODULE_FILE = re.compile(r"\.ko(\.(gz|xz|zst|bz2))?$")
_UDEV = re.compile(r"(^|/)(udevd|systemd-udevd|udevadm)$")

Files = Mapping[str, cpio.Member]
"""Name without a leading slash -> member; what lies in ``usr/lib/modules`` is called ``lib/modules``."""


def files_of(data: bytes) -> dict[str, cpio.Member]:
    """All members of an initramfs of any number of archives, compressed or not.

    Raises Corrupt when it is damaged, Unsupported for an unknown compression or one that needs a missing tool.
    """
    found: dict[str, cpio.Member] = {}
    view, left = memoryview(data), compression.MAX_UNPACKED_BYTES
    for _ in range(MAX_SEGMENTS):
        view = _after_zeroes(view)
        if not view:
            return found
        if bytes(view[:6]) in cpio.MAGICS:
            used = _collect(view, found)
        else:
            kind = initramfs.compression_of(bytes(view[: initramfs.PROBE_BYTES]))
            if kind is None:
                raise Unsupported(f"unknown initramfs format at byte {len(data) - len(view)}")
            plain, used = compression.unpacked(kind, view, left)
            left -= len(plain)
            inner = memoryview(plain)
            while inner:  # some tools put several archives into one stream
                inner = _after_zeroes(inner[_collect(inner, found) :])
        view = view[used:]
    raise Corrupt(f"the initramfs has more than {MAX_SEGMENTS} segments")


def _collect(archive: memoryview, found: dict[str, cpio.Member]) -> int:
    """Add what the archive at the start holds; where it ends."""
    used = 0
    for member, end in cpio.walk(archive):
        used = end
        if member is not None:
            found[_normal(member.name)] = member
    return used


def _after_zeroes(view: memoryview) -> memoryview:
    at = 0
    while at < len(view):
        block = bytes(view[at : at + 4096])
        rest = block.lstrip(b"\0")
        if rest:
            return view[at + len(block) - len(rest) :]
        at += len(block)
    return view[len(view) :]


def _normal(name: str) -> str:
    name = name.removeprefix(".").lstrip("/") if name.startswith("./") else name.lstrip("/")
    return name.removeprefix("usr/") if name.startswith("usr/lib/modules/") else name


def modules_in(files: Files, version: str) -> dict[str, str]:
    """Module name -> path below ``lib/modules/<version>`` of what the image holds for that kernel."""
    top = f"lib/modules/{version}/"
    return {
        module_name(name): name.removeprefix(top)
        for name, member in files.items()
        if name.startswith(top) and _MODULE_FILE.search(name) and member.is_file
    }


def has_udev(files: Files) -> bool:
    """Whether drivers are loaded by what the hardware says of itself; without udev only lists count."""
    return any(_UDEV.search(name) for name in files)
