"""Debian and Ubuntu."""

from __future__ import annotations

from coriolis.convert.linux.family import LinuxFamily

FAMILY = LinuxFamily(
    name="debian",
    oldest={"debian": (8,), "ubuntu": (14, 4)},
    likes=("debian", "ubuntu"),
    package_tool="dpkg",
    rebuild=("update-initramfs", "-u", "-k", "{version}"),
    rebuild_loader=(("update-grub",), ("grub-mkconfig", "-o", "/boot/grub/grub.cfg")),
)
