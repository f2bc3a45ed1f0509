"""What is installed in a phony guest, as far as files show it: dpkg's status, units, programs."""

from __future__ import annotations

from pathlib import Path

from tests.lab.phony_distros import Distro
from tests.lab.phony_files import elf, link, put

DEBS = {
    "bash": "5.0-1",
    "dpkg": "1.20",
    "apt": "2.4",
    "initramfs-tools": "0.140",
    "grub-pc": "2.06-2",
    "kmod": "29-1",
    "openssh-server": "1:8.9p1-3",
}
RPMS = {
    "bash": "5.0-1",
    "systemd": "239-1",
    "dracut": "049-1",
    "grub2": "2.02-1",
    "kmod": "25-1",
    "NetworkManager": "1.40-1",
    "openssh-server": "8.0-1",
}
_DEB_PACKAGES = {
    "open-vm-tools": {"open-vm-tools": "2:12.1.5-1"},
    "walinuxagent": {"walinuxagent": "2.2.45-1"},
    "Hyper-V daemons": {"linux-cloud-tools-common": "4.15.0-213.224", "linux-cloud-tools-4.15.0-213-generic": "1"},
    "google-guest-agent": {"google-guest-agent": "1", "google-compute-engine-oslogin": "1"},
}
_RPM_PACKAGES = {
    "open-vm-tools": {"open-vm-tools": "12.1.5-1"},
    "Hyper-V daemons": {"hyperv-daemons": "0-0.34", "hypervkvpd": "0-0.34"},
    "EC2 agents": {"amazon-ssm-agent": "3.2-1", "ec2-instance-connect": "1.1-15"},
    "xe-guest-utilities": {"xe-guest-utilities": "7.10-1"},
}


def installed(distro: Distro) -> dict[str, str]:
    """Package -> version."""
    base, own = (DEBS, _DEB_PACKAGES) if distro.is_deb else (RPMS, _RPM_PACKAGES)
    rows = dict(base)
    for agent in distro.agents:
        rows |= own.get(agent, {})
    if distro.cloud_init:
        rows["cloud-init"] = "23.1-1"
    return rows


def packages(top: Path, distro: Distro) -> None:
    """dpkg's status, or a place for rpm's database, which ``make_phony_linux`` fills."""
    put(top, f"/usr/bin/{distro.manager}{'-get' if distro.is_deb else ''}", elf(), 0o755)
    if not distro.is_deb:
        sysimage = distro.identity == "fedora" or (distro.manager == "zypper" and distro.version.startswith("15"))
        put(top, f"{'/usr/lib/sysimage/rpm' if sysimage else '/var/lib/rpm'}/.rpm.lock", "")
        return
    stanzas = [
        f"Package: {name}\nStatus: install ok installed\nPriority: optional\nSection: misc\n"
        f"Maintainer: Phony <phony@example.test>\nArchitecture: amd64\nVersion: {version}\n"
        f"Description: phony {name}\n"
        for name, version in {**installed(distro), f"linux-image-{distro.kernel}": "1.0"}.items()
    ]
    gone = "Package: xe-guest-utilities\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: amd64\n"
    put(top, "/var/lib/dpkg/status", "\n".join([*stanzas, gone]))


def agents(top: Path, distro: Distro) -> None:
    """Programs and services of the origin's agents, where the distribution has them."""
    for agent in distro.agents:
        _WRITERS[agent](top, distro)


def _service(top: Path, distro: Distro, name: str) -> None:
    if distro.init == "systemd":
        unit = f"/usr/lib/systemd/system/{name}.service"
        if not distro.merged_usr and distro.is_deb:
            unit = unit.removeprefix("/usr")
        put(top, unit, f"[Service]\nExecStart=/usr/bin/{name}\n[Install]\nWantedBy=multi-user.target\n")
        link(top, f"/etc/systemd/system/multi-user.target.wants/{name}.service", unit)
        return
    put(top, f"/etc/init.d/{name}" if distro.is_deb else f"/etc/rc.d/init.d/{name}", "#!/bin/sh\n", 0o755)
    for level in (2, 3, 5):
        where = "/etc" if distro.is_deb else "/etc/rc.d"
        link(top, f"{where}/rc{level}.d/S20{name}", f"../init.d/{name}")


def _open_vm_tools(top: Path, distro: Distro) -> None:
    put(top, "/usr/bin/vmtoolsd", elf(), 0o755)
    _service(top, distro, "open-vm-tools" if distro.is_deb else "vmtoolsd")
    if distro.init == "systemd":
        _service(top, distro, "vgauth" if distro.is_deb else "vgauthd")


def _vmware_tools(top: Path, distro: Distro) -> None:
    put(top, "/etc/vmware-tools/locations", "answer BINDIR /usr/bin\n")
    put(top, "/usr/bin/vmware-uninstall-tools.pl", "#!/usr/bin/perl\n", 0o755)
    _service(top, distro, "vmware-tools")


def _hyper_v(top: Path, distro: Distro) -> None:
    put(top, "/usr/sbin/hv_kvp_daemon" if distro.is_deb else "/usr/sbin/hypervkvpd", elf(), 0o755)
    _service(top, distro, "hv-kvp-daemon" if distro.is_deb else "hypervkvpd")


def _walinuxagent(top: Path, distro: Distro) -> None:
    put(top, "/usr/sbin/waagent", "#!/usr/bin/python3\n", 0o755)
    _service(top, distro, "walinuxagent")


def _google(top: Path, distro: Distro) -> None:
    put(top, "/usr/bin/google_guest_agent", elf(), 0o755)
    _service(top, distro, "google-guest-agent")


def _ec2(top: Path, distro: Distro) -> None:
    put(top, "/usr/bin/amazon-ssm-agent", elf(), 0o755)
    _service(top, distro, "amazon-ssm-agent")


def _xe(top: Path, distro: Distro) -> None:
    put(top, "/usr/sbin/xe-daemon", elf(), 0o755)
    _service(top, distro, "xe-linux-distribution")


_WRITERS = {
    "open-vm-tools": _open_vm_tools,
    "VMware Tools": _vmware_tools,
    "Hyper-V daemons": _hyper_v,
    "walinuxagent": _walinuxagent,
    "google-guest-agent": _google,
    "EC2 agents": _ec2,
    "xe-guest-utilities": _xe,
}


def cloud_init(top: Path) -> None:
    """As an installer leaves it: there, and told to do nothing."""
    put(top, "/usr/bin/cloud-init", "#!/usr/bin/python3\n", 0o755)
    put(top, "/etc/cloud/cloud.cfg", "datasource_list: [ NoCloud, None ]\n")
    put(top, "/etc/cloud/cloud-init.disabled", "")
    put(top, "/etc/cloud/cloud.cfg.d/99-installer.cfg", "datasource_list: [ None ]\n")
    put(top, "/etc/cloud/cloud.cfg.d/subiquity-disable-cloudinit-networking.cfg", "network: {config: disabled}\n")
