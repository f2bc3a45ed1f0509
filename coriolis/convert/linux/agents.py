"""Agents of hypervisors and clouds: where each is at home, by what it is recognised, and its packages.

dpkg's status file gives installed packages by name. rpm's database cannot be read here in all its formats, so with
rpm an agent is recognised by its files, and the guest's own rpm is asked at first boot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from coriolis.convert.guest import Guest
from coriolis.convert.linux.installed import dpkg_packages, units


@dataclass(frozen=True, slots=True)
class Agent:
    """``home``: platforms on which it belongs. ``packages``: by any name they have, ``*`` for dpkg only.

    ``units`` of systemd; ``services`` of SysV and upstart; ``files``: any of them says that it is installed.
    ``uninstall``: a program of its own that removes what no package owns.
    """

    name: str
    home: tuple[str, ...]
    packages: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    uninstall: str = ""


AGENTS = (
    Agent(
        "open-vm-tools",
        home=("vmware",),
        packages=(
            "open-vm-tools",
            "open-vm-tools-desktop",
            "open-vm-tools-containerinfo",
            "open-vm-tools-salt-minion",
            "open-vm-tools-sdmp",
            "open-vm-tools-deploypkg",
            "open-vm-tools-dkms",
        ),
        units=("open-vm-tools.service", "vmtoolsd.service", "vgauth.service", "vgauthd.service"),
        services=("open-vm-tools", "vmtoolsd", "vgauthd"),
        files=("/usr/bin/vmtoolsd",),
    ),
    Agent(
        "VMware Tools",
        home=("vmware",),
        units=("vmware-tools.service", "vmware-tools-thinprint.service", "vmware-caf.service"),
        services=("vmware-tools", "vmware-tools-thinprint", "vmware-tools-services"),
        files=("/etc/vmware-tools/locations", "/usr/bin/vmware-uninstall-tools.pl"),
        uninstall="/usr/bin/vmware-uninstall-tools.pl",
    ),
    Agent(
        "Hyper-V daemons",
        home=("hyperv", "azure"),
        packages=(
            "hyperv-daemons",
            "hypervkvpd",
            "hypervvssd",
            "hypervfcopyd",
            "hyperv-daemons-license",
            "hyperv-tools",
            "hyper-v",
            "linux-cloud-tools-*",
        ),
        units=tuple(
            f"{name}.service"
            for daemon in ("kvp", "vss", "fcopy")
            for name in (
                f"hv-{daemon}-daemon",
                f"hv_{daemon}_daemon",
                f"hyperv-daemons.hv-{daemon}-daemon",
                f"hyperv{daemon}d",
            )
        ),
        services=("hypervkvpd", "hypervvssd", "hypervfcopyd", "hv-kvp-daemon", "hv-vss-daemon", "hv-fcopy-daemon"),
        files=("/usr/sbin/hypervkvpd", "/usr/sbin/hv_kvp_daemon", "/usr/lib/hyper-v/bin/hv_kvp_daemon"),
    ),
    Agent(
        "xe-guest-utilities",
        home=("xen",),
        packages=("xe-guest-utilities", "xe-guest-utilities-xenstore", "xe-guest-utilities-latest"),
        units=("xe-linux-distribution.service", "xe-daemon.service"),
        services=("xe-linux-distribution", "xe-daemon"),
        files=("/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"),
    ),
    Agent(
        "walinuxagent",
        home=("azure",),
        packages=("walinuxagent", "WALinuxAgent", "WALinuxAgent-udev", "python-azure-agent", "python3-azure-agent"),
        units=("walinuxagent.service", "waagent.service", "waagent-network-setup.service"),
        services=("walinuxagent", "waagent"),
        files=("/usr/sbin/waagent",),
    ),
    Agent(
        "google-guest-agent",
        home=("gcp",),
        packages=(
            "google-guest-agent",
            "google-osconfig-agent",
            "google-compute-engine",
            "google-compute-engine-oslogin",
            "google-compute-daemon",
            "google-guest-configs",
            "google-guest-oslogin",
            "google-startup-scripts",
            "python-google-compute-engine",
            "python3-google-compute-engine",
            "gce-compute-image-packages",
            "gce-disk-expand",
        ),
        units=(
            "google-guest-agent.service",
            "google-guest-agent-manager.service",
            "google-osconfig-agent.service",
            "google-startup-scripts.service",
            "google-shutdown-scripts.service",
            "google-accounts-daemon.service",
            "google-clock-skew-daemon.service",
            "google-instance-setup.service",
            "google-network-daemon.service",
            "google-disk-expand.service",
            "google-oslogin-cache.timer",
            "gce-workload-cert-refresh.timer",
        ),
        services=("google-accounts-daemon", "google-clock-skew-daemon", "google-network-daemon"),
        files=("/usr/bin/google_guest_agent", "/usr/bin/google_accounts_daemon", "/usr/bin/google_osconfig_agent"),
    ),
    Agent(
        "EC2 agents",
        home=("aws",),
        packages=(
            "amazon-ssm-agent",
            "ec2-instance-connect",
            "ec2-net-utils",
            "amazon-ec2-net-utils",
            "ec2-hibinit-agent",
            "hibagent",
        ),
        units=(
            "amazon-ssm-agent.service",
            "snap.amazon-ssm-agent.amazon-ssm-agent.service",
            "ec2-instance-connect.service",
            "ec2net-scan.service",
            "hibinit-agent.service",
        ),
        services=("amazon-ssm-agent", "hibagent"),
        files=(
            "/usr/bin/amazon-ssm-agent",
            "/opt/aws/bin/eic_run_authorized_keys",
            "/usr/bin/setup-policy-routes",
            "/etc/sysconfig/network-scripts/ec2net-functions",
            "/usr/bin/hibinit-agent",
            "/snap/bin/amazon-ssm-agent.ssm-cli",
        ),
    ),
    Agent(
        "qemu-guest-agent",
        home=("kvm", "openstack"),
        packages=("qemu-guest-agent",),
        units=("qemu-guest-agent.service", "qemu-ga.service"),
        services=("qemu-guest-agent", "qemu-ga"),
        files=("/usr/bin/qemu-ga", "/usr/sbin/qemu-ga"),
    ),
    Agent(
        "VirtualBox additions",
        home=("virtualbox",),
        packages=("virtualbox-guest-utils", "virtualbox-guest-x11", "virtualbox-guest-dkms", "virtualbox-guest-tools"),
        units=("virtualbox-guest-utils.service", "vboxadd.service", "vboxadd-service.service", "vboxservice.service"),
        services=("vboxadd", "vboxadd-service", "virtualbox-guest-utils"),
        files=("/usr/sbin/VBoxService",),
    ),
)


@dataclass(frozen=True, slots=True)
class Found:
    """An agent of the guest that does not belong where it goes. ``packages``: installed ones; with rpm, candidates."""

    agent: Agent
    packages: tuple[str, ...]
    units: tuple[str, ...]


def strangers(guest: Guest, platform: str) -> list[Found]:
    """The agents in the guest that are not at home on ``platform``."""
    packages = dpkg_packages(guest)
    present = units(guest)
    found = (_look(guest, agent, packages, present) for agent in AGENTS if platform not in agent.home)
    return [one for one in found if one is not None]


def _look(guest: Guest, agent: Agent, dpkg: frozenset[str], present: frozenset[str]) -> Found | None:
    there = matching(dpkg, agent.packages)
    own = tuple(unit for unit in agent.units if unit in present)
    if not there and not own and not any(guest.is_file(path) for path in agent.files):
        return None
    candidates = tuple(name for name in agent.packages if "*" not in name)
    return Found(agent, there if dpkg else candidates, own)


def matching(packages: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """The packages that any of ``patterns`` names, sorted."""
    wanted = tuple(patterns)
    return tuple(sorted(name for name in packages if any(fnmatchcase(name, one) for one in wanted)))
