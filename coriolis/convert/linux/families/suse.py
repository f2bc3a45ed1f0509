"""SUSE Linux Enterprise Server and openSUSE."""

from __future__ import annotations

from coriolis.convert.linux.family import LinuxFamily

FAMILY = LinuxFamily(
    name="suse",
    oldest={
        "sles": (12,),
        "sles_sap": (12,),
        "opensuse-leap": (15,),
        "opensuse-tumbleweed": (2015,),
        "opensuse": (13,),
    },
    package_names={"*": {"walinuxagent": ("python-azure-agent",), "hyperv-daemons": ("hyper-v",)}},
    likes=("suse", "opensuse"),
    package_tool="rpm",
    rebuild=("dracut", "--force", "{path}", "{version}"),
    rebuild_loader=(("grub2-mkconfig", "-o", "/boot/grub2/grub.cfg"),),
)
