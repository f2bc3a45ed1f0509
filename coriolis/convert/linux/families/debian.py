"""Debian and Ubuntu."""

from __future__ import annotations

from coriolis.convert.linux.family import LinuxFamily

FAMILY = LinuxFamily(
    name="debian",
    oldest={"debian": (8,), "ubuntu": (14, 4)},
    likes=("debian", "ubuntu"),
    package_tool="dpkg",
    rebuild=("update-initramfs", "-u", "-k", "{version}"),
    long_term={"ubuntu": r"\d*[02468]\.04(\.\d+)?"},
    package_names={"ubuntu": {"hyperv-daemons": ("linux-cloud-tools-virtual",)}},
    rebuild_loader=(("update-grub",), ("grub-mkconfig", "-o", "/boot/grub/grub.cfg")),
)
