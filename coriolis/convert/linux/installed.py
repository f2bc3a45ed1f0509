"""What is installed in a guest, told from its files: no code of the guest is run."""

from __future__ import annotations

from coriolis.convert.guest import Guest, read
from coriolis.convert.linux.family import PackageTool
from coriolis.convert.text import decode

DPKG_STATUS = "/var/lib/dpkg/status"
MAX_STATUS_BYTES = 32 << 20
UNIT_DIRECTORIES = ("/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system")
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_INIT = ("/sbin/init", "/usr/sbin/init")


def has_systemd(guest: Guest) -> bool:
    """Whether the guest starts with systemd; its programs may be there beside another init."""
    for path in _INIT:
        target = guest.read_link(path)
        if target is not None:
            return target.endswith("/systemd")
    if guest.is_file(_INIT[0]):
        return False
    return any(guest.is_file(path) for path in _SYSTEMD)


def units(guest: Guest) -> frozenset[str]:
    """Names of all systemd units of the guest, masked ones too."""
    return frozenset(name for directory in UNIT_DIRECTORIES for name in guest.listdir(directory))


def dpkg_packages(guest: Guest) -> frozenset[str]:
    """Names of the installed packages of dpkg's status file. Raises Unsupported beyond 32 MiB."""
    if not guest.is_file(DPKG_STATUS):
        return frozenset()
    return parse_status(decode(read(guest, DPKG_STATUS, MAX_STATUS_BYTES)))


def parse_status(text: str) -> frozenset[str]:
    """Names of packages whose ``Status`` ends in ``installed``."""
    found: set[str] = set()
    name = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "Package":
            name = value.strip()
        elif key == "Status" and value.split()[-1:] == ["installed"]:
            found.add(name)
    return frozenset(found)


def package_tool(guest: Guest) -> PackageTool:
    """By its database; empty when neither is there."""
    if guest.is_file(DPKG_STATUS):
        return "dpkg"
    places = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
    return "rpm" if any(guest.listdir(place) for place in places) else ""
