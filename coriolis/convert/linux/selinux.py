"""New files have no SELinux label: ask the guest to label itself at its next start."""

from __future__ import annotations

import re

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.plugin import Say

CONFIG = "/etc/selinux/config"
RELABEL = "/.autorelabel"


def mode(guest: Guest) -> str:
    """``enforcing``, ``permissive``, ``disabled``; empty for a guest without SELinux."""
    found = re.findall(r"(?m)^[ \t]*SELINUX[ \t]*=[ \t]*(\w+)", read_text(guest, CONFIG))
    return found[-1].lower() if found else ""


def request_relabel(guest: Guest, say: Say) -> None:
    """Make ``/.autorelabel`` where SELinux is on."""
    if mode(guest) in ("enforcing", "permissive") and not guest.is_file(RELABEL):
        guest.write(RELABEL, b"")
        say(f"SELinux is {mode(guest)}: the guest labels its files at its first start, then restarts once")
