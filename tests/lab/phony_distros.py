"""The phony Linux guests: what each distribution looks like, as one table. Nothing comes from the distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Manager = Literal["apt", "yum", "dnf", "zypper"]
Network = Literal["ifcfg", "keyfile", "wicked", "netplan", "ifupdown", "networkd"]
Loader = Literal["grub1", "grub2-debian", "grub2", "bls", "grub2-suse"]

MACS = ("00:50:56:9a:33:44", "00:50:56:9a:33:45")


@dataclass(frozen=True, slots=True)
class Distro:
    """``suffix``: of kernel modules. ``nics``: names, in the order of ``MACS``. ``agents``: packages of the origin's.

    ``release``: text of ``/etc/redhat-release`` and the like. ``os_release``: whether it has that file at all.
    """

    identity: str
    title: str
    version: str
    kernel: str
    manager: Manager
    network: Network
    loader: Loader
    like: str = ""
    code: str = ""
    release: str = ""
    nics: tuple[str, ...] = ("ens192",)
    file_system: str = "xfs"
    init: Literal["systemd", "upstart"] = "systemd"
    merged_usr: bool = True
    suffix: str = ".ko"
    selinux: str = ""
    agents: tuple[str, ...] = ("open-vm-tools",)
    cloud_init: bool = False
    os_release: bool = True

    @property
    def pretty(self) -> str:
        code = f" ({self.code})" if self.identity == "debian" else " LTS" if self.identity == "ubuntu" else ""
        return f"{self.title} {self.version}{code}"

    @property
    def is_deb(self) -> bool:
        return self.manager == "apt"

    @property
    def initramfs(self) -> str:
        if self.is_deb:
            return f"/boot/initrd.img-{self.kernel}"
        return f"/boot/initrd-{self.kernel}" if self.manager == "zypper" else f"/boot/initramfs-{self.kernel}.img"


_RHEL = "Red Hat Enterprise Linux"
_TWO = ("ens192", "ens224")

DISTROS = {
    "rhel6": Distro(
        *("rhel", f"{_RHEL} Server", "6.10", "2.6.32-754.el6.x86_64", "yum", "ifcfg", "grub1"),
        release=f"{_RHEL} Server release 6.10 (Santiago)",
        nics=("eth0",),
        file_system="ext4",
        init="upstart",
        merged_usr=False,
        selinux="enforcing",
        agents=("VMware Tools",),
        os_release=False,
    ),
    "rhel7": Distro(
        *("rhel", f"{_RHEL} Server", "7.9", "3.10.0-1160.el7.x86_64", "yum", "ifcfg", "grub2", "fedora"),
        release=f"{_RHEL} Server release 7.9 (Maipo)",
        nics=_TWO,
        suffix=".ko.xz",
        selinux="enforcing",
    ),
    "rhel8": Distro(
        *("rhel", _RHEL, "8.9", "4.18.0-513.5.1.el8_9.x86_64", "dnf", "ifcfg", "bls", "fedora"),
        release=f"{_RHEL} release 8.9 (Ootpa)",
        suffix=".ko.xz",
        selinux="enforcing",
    ),
    "rhel9": Distro(
        *("rhel", _RHEL, "9.3", "5.14.0-362.8.1.el9_3.x86_64", "dnf", "keyfile", "bls", "fedora"),
        release=f"{_RHEL} release 9.3 (Plow)",
        nics=_TWO,
        suffix=".ko.xz",
        selinux="enforcing",
        cloud_init=True,
    ),
    "centos7": Distro(
        *("centos", "CentOS Linux", "7", "3.10.0-1160.el7.x86_64", "yum", "ifcfg", "grub2", "rhel fedora"),
        release="CentOS Linux release 7.9.2009 (Core)",
        suffix=".ko.xz",
        selinux="permissive",
        agents=("Hyper-V daemons",),
    ),
    "rocky9": Distro(
        *("rocky", "Rocky Linux", "9.3", "5.14.0-362.8.1.el9_3.x86_64", "dnf", "keyfile", "bls", "rhel centos fedora"),
        release="Rocky Linux release 9.3 (Blue Onyx)",
        suffix=".ko.xz",
        selinux="enforcing",
    ),
    "ol8": Distro(
        *("ol", "Oracle Linux Server", "8.9", "4.18.0-513.5.1.el8_9.x86_64", "dnf", "ifcfg", "bls", "fedora"),
        release="Oracle Linux Server release 8.9",
        suffix=".ko.xz",
        selinux="enforcing",
    ),
    "fedora39": Distro(
        *("fedora", "Fedora Linux", "39", "6.5.6-300.fc39.x86_64", "dnf", "keyfile", "bls"),
        release="Fedora release 39 (Thirty Nine)",
        file_system="ext4",
        suffix=".ko.xz",
        selinux="enforcing",
    ),
    "amzn2": Distro(
        *("amzn", "Amazon Linux", "2", "5.10.201-191.748.amzn2.x86_64", "yum", "ifcfg", "grub2", "centos rhel fedora"),
        release="Amazon Linux release 2 (Karoo)",
        nics=("eth0",),
        agents=("EC2 agents",),
        cloud_init=True,
    ),
    "amzn2023": Distro(
        *("amzn", "Amazon Linux", "2023", "6.1.61-85.141.amzn2023.x86_64", "dnf", "networkd", "bls", "fedora"),
        release="Amazon Linux release 2023 (Amazon Linux)",
        nics=("ens5",),
        suffix=".ko.xz",
        selinux="permissive",
        agents=("EC2 agents",),
        cloud_init=True,
    ),
    "sles12": Distro(
        *("sles", "SUSE Linux Enterprise Server", "12.5", "4.12.14-120-default", "zypper", "wicked", "grub2-suse"),
        nics=("eth0",),
        merged_usr=False,
        agents=("xe-guest-utilities",),
    ),
    "sles15": Distro(
        *("sles", "SLES", "15.5", "5.14.21-150500.53-default", "zypper", "wicked", "grub2-suse", "suse"),
        nics=("eth0", "eth1"),
        suffix=".ko.zst",
    ),
    "opensuse15": Distro(
        *("opensuse-leap", "openSUSE Leap", "15.5", "5.14.21-150500.53-default", "zypper", "wicked", "grub2-suse"),
        like="suse opensuse",
        nics=("eth0",),
        file_system="ext4",
        suffix=".ko.zst",
    ),
    "ubuntu1404": Distro(
        *("ubuntu", "Ubuntu", "14.04", "3.13.0-170-generic", "apt", "ifupdown", "grub2-debian", "debian", "trusty"),
        nics=("eth0",),
        file_system="ext4",
        init="upstart",
        merged_usr=False,
    ),
    "ubuntu1604": Distro(
        *("ubuntu", "Ubuntu", "16.04", "4.4.0-210-generic", "apt", "ifupdown", "grub2-debian", "debian", "xenial"),
        file_system="ext4",
        merged_usr=False,
    ),
    "ubuntu1804": Distro(
        *("ubuntu", "Ubuntu", "18.04", "4.15.0-213-generic", "apt", "netplan", "grub2-debian", "debian", "bionic"),
        file_system="ext4",
        merged_usr=False,
        agents=("walinuxagent", "Hyper-V daemons"),
        cloud_init=True,
    ),
    "ubuntu2004": Distro(
        *("ubuntu", "Ubuntu", "20.04", "5.4.0-169-generic", "apt", "netplan", "grub2-debian", "debian", "focal"),
        file_system="ext4",
        agents=("google-guest-agent",),
    ),
    "ubuntu2204": Distro(
        *("ubuntu", "Ubuntu", "22.04", "5.15.0-91-generic", "apt", "netplan", "grub2-debian", "debian", "jammy"),
        nics=_TWO,
        file_system="ext4",
        cloud_init=True,
    ),
    "ubuntu2404": Distro(
        *("ubuntu", "Ubuntu", "24.04", "6.8.0-31-generic", "apt", "netplan", "grub2-debian", "debian", "noble"),
        file_system="ext4",
        suffix=".ko.zst",
    ),
    "debian9": Distro(
        *("debian", "Debian GNU/Linux", "9", "4.9.0-19-amd64", "apt", "ifupdown", "grub2-debian", "", "stretch"),
        file_system="ext4",
        merged_usr=False,
    ),
    "debian11": Distro(
        *("debian", "Debian GNU/Linux", "11", "5.10.0-26-amd64", "apt", "ifupdown", "grub2-debian", "", "bullseye"),
        nics=_TWO,
        file_system="ext4",
    ),
}
