"""Amazon Linux."""

from __future__ import annotations

from coriolis.convert.linux.family import LinuxFamily

FAMILY = LinuxFamily(
    name="amazon",
    oldest={"amzn": (2,)},
    package_names={"*": {"walinuxagent": ("WALinuxAgent",)}},
    package_tool="rpm",
    rebuild=("dracut", "--force", "{path}", "{version}"),
    rebuild_loader=(("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"),),
)
