"""What the destination wants installed, and the way to it: the bundle, the repositories, or the first boot.

The guest's own network is asked only at first boot, where a failure stops nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coriolis.convert.guest import Guest
from coriolis.convert.linux import agents, bundle, cloud_init
from coriolis.convert.linux.family import LinuxFamily, PackageTool
from coriolis.convert.linux.installed import dpkg_packages
from coriolis.convert.plugin import Job, Say, System
from coriolis.convert.text import shown
from coriolis.errors import QuotaExceeded, TimedOut, Unavailable

STAGE = "/var/lib/coriolis/packages"
INSTALL_TIMEOUT_S = 600.0
RESERVE_BYTES = 64 << 20
POLICY = "/usr/sbin/policy-rc.d"

Way = Literal["bundle", "repositories", "first boot"]


@dataclass(frozen=True, slots=True)
class Need:
    """A package that the destination wants and the guest lacks. ``files``: of the bundle."""

    name: str
    packages: tuple[str, ...]
    way: Way
    files: tuple[bundle.PackageFile, ...] = ()


def needs(guest: Guest, family: LinuxFamily, system: System, job: Job) -> list[Need]:
    """What is missing, each with the way it will come. Reads only. Nothing for a guest without a package tool."""
    if not family.package_tool:
        return []
    dpkg = dpkg_packages(guest)
    found = []
    for name in job.platform.agents:
        names = family.packages_of(name, system.distribution)
        if not is_installed(guest, name, names, dpkg):
            files = [one for package in names for one in _in_bundle(job, system, package)]
            way: Way = "bundle" if files else "repositories" if job.package_network else "first boot"
            found.append(Need(name, names, way, tuple(files)))
    return found


def is_installed(guest: Guest, name: str, packages: Sequence[str], dpkg: frozenset[str]) -> bool:
    if name == "cloud-init" and cloud_init.present(guest):
        return True
    known = [agent for agent in agents.AGENTS if name in agent.packages]
    return bool(dpkg.intersection(packages)) or any(guest.is_file(path) for agent in known for path in agent.files)


def _in_bundle(job: Job, system: System, package: str) -> list[bundle.PackageFile]:
    return bundle.find(job.bundle, system.distribution, system.version, package) if job.bundle else []


def stage(guest: Guest, files: Sequence[bundle.PackageFile]) -> list[str]:
    """Copy files of the bundle into the guest; their paths there. Raises QuotaExceeded."""
    total = sum(one.path.stat().st_size for one in files)
    free = guest.free_bytes("/var") if guest.is_dir("/var") else guest.free_bytes("/")
    if free < total + RESERVE_BYTES:
        raise QuotaExceeded(f"packages of {total} bytes do not fit into the guest: {free} bytes are free")
    paths = [f"{STAGE}/{one.path.name}" for one in files]
    for one, path in zip(files, paths, strict=True):
        guest.write(path, one.path.read_bytes())
    return paths


def install_files(guest: Guest, tool: PackageTool, paths: Sequence[str], say: Say) -> bool:
    """Install staged files by the guest's own tool, in the appliance; whether that went well."""
    command = ["dpkg", "--force-confold", "-i", *paths] if tool == "dpkg" else ["rpm", "-U", "--replacepkgs", *paths]
    done = _run(guest, [["env", "DEBIAN_FRONTEND=noninteractive", *command]], say)
    for path in paths if done else ():
        guest.remove(path)
    return done


def install_from_repositories(guest: Guest, packages: Sequence[str], say: Say) -> bool:
    """Install by the guest's own package manager over the appliance's network; whether that went well."""
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q", "-o", "Dpkg::Options::=--force-confold"]
    for program, commands in (
        ("apt-get", [[*apt, "update"], [*apt, "install", "--no-install-recommends", *packages]]),
        ("dnf", [["dnf", "-y", "-q", "install", *packages]]),
        ("zypper", [["zypper", "--non-interactive", "install", "--no-recommends", *packages]]),
        ("yum", [["yum", "-y", "-q", "install", *packages]]),
    ):
        if guest.is_file(f"/usr/bin/{program}"):
            return _run(guest, commands, say)
    say("the guest has no package manager that is known here")
    return False


def remove(guest: Guest, tool: PackageTool, packages: Sequence[str], say: Say) -> bool:
    """Remove installed ones of ``packages`` by the guest's own tool, in the appliance; whether that went well."""
    if tool == "dpkg":
        return _run(guest, [["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--purge", *packages]], say)
    try:
        have = set(guest.run(["rpm", "-qa", "--qf", "%{NAME}\\n"], timeout_s=INSTALL_TIMEOUT_S).split())
    except (Unavailable, TimedOut) as error:
        say(f"the guest's rpm failed: {error.message}")
        return False
    there = [name for name in packages if name in have]
    return not there or _run(guest, [["rpm", "-e", *there]], say)


def _run(guest: Guest, commands: Sequence[Sequence[str]], say: Say) -> bool:
    """Services must not start in the appliance; a failure is said and left to the first boot."""
    own_policy = guest.is_file(POLICY) or guest.read_link(POLICY) is not None
    if not own_policy and guest.is_dir("/usr/sbin"):
        guest.write(POLICY, b"#!/bin/sh\nexit 101\n", 0o755)
    try:
        for command in commands:
            guest.run(command, timeout_s=INSTALL_TIMEOUT_S)
    except (Unavailable, TimedOut) as error:
        say(f"{shown(' '.join(command))}: {error.message}; it is left to the first boot")
        return False
    finally:
        if not own_policy:
            guest.remove(POLICY)
    return True
