"""Red Hat Enterprise Linux, what is built from it, and Fedora."""

from __future__ import annotations

from coriolis.convert.linux.family import LinuxFamily

FAMILY = LinuxFamily(
    name="redhat",
    oldest={
        "rhel": (6,),
        "centos": (6,),
        "almalinux": (8,),
        "rocky": (8,),
        "ol": (6,),
        "fedora": (30,),
    },
    best_effort={"rhel": (7,), "centos": (7,), "ol": (7,)},
    package_names={"*": {"walinuxagent": ("WALinuxAgent",)}},
    likes=("rhel", "fedora", "centos"),
    package_tool="rpm",
    rebuild=("dracut", "--force", "{path}", "{version}"),
    rebuild_loader=(("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"),),
)
