"""Keep services of a guest from starting, without running its code. Undo: ``systemctl unmask``, or rename back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from coriolis.convert.guest import Guest
from coriolis.convert.linux.installed import has_systemd
from coriolis.convert.linux.kept_aside import move_aside
from coriolis.convert.plugin import Say

MASK_DIRECTORY = "/etc/systemd/system"
_RUN_LEVELS = (2, 3, 4, 5)


def silence(guest: Guest, units: Sequence[str], services: Sequence[str], say: Say) -> None:
    """Mask the units; without systemd, stop SysV links and upstart jobs of the services."""
    if has_systemd(guest):
        for unit in units:
            _mask(guest, f"{MASK_DIRECTORY}/{unit}", say)
        return
    for service in services:
        if guest.is_file(f"/etc/init/{service}.conf") and not guest.is_file(f"/etc/init/{service}.override"):
            guest.write(f"/etc/init/{service}.override", b"manual\n")
            say(f"upstart job {service}: set to manual")
        for level in _RUN_LEVELS:
            for directory in (f"/etc/rc.d/rc{level}.d", f"/etc/rc{level}.d"):
                _stop_link(guest, directory, service)


def is_silent(guest: Guest, unit: str) -> bool:
    return guest.read_link(f"{MASK_DIRECTORY}/{unit}") == "/dev/null"


def _mask(guest: Guest, path: str, say: Say) -> None:
    if guest.read_link(path) == "/dev/null":
        return
    if guest.read_link(path) is None and guest.is_file(path):
        move_aside(guest, path)  # the unit itself lies there, not only a link
    guest.symlink("/dev/null", path)
    say(f"{path.rpartition('/')[2]}: masked, it belongs to the origin")


def _stop_link(guest: Guest, directory: str, service: str) -> None:
    for name in guest.listdir(directory):
        match = re.fullmatch(rf"S(\d\d){re.escape(service)}", name)
        if match:
            guest.rename(f"{directory}/{name}", f"{directory}/K{99 - int(match[1]):02d}{service}")
