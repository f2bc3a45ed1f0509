"""Which distribution a guest is: os-release(5), or what systems from before it have."""

from __future__ import annotations

import re
import shlex

from coriolis.convert.guest import Guest, read_text

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
OLDER = (
    "/etc/oracle-release",
    "/etc/centos-release",
    "/etc/redhat-release",
    "/etc/SuSE-release",
    "/etc/debian_version",
)
_RED_HATS = (
    ("Oracle Linux", "ol", "rhel"),
    ("CentOS", "centos", "rhel fedora"),
    ("Fedora", "fedora", ""),
    ("Red Hat", "rhel", "fedora"),
)


def os_release(guest: Guest) -> dict[str, str]:
    """The fields of the guest's os-release, unquoted; made up from older files when it has none, else empty."""
    for path in OS_RELEASE:
        text = read_text(guest, path)
        if text:
            return parse(text)
    return next((found for path in OLDER if (found := from_older(path, read_text(guest, path)))), {})


def parse(text: str) -> dict[str, str]:
    """Assignments of os-release(5); lines that are none are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or not name.isidentifier():
            continue
        try:
            found[name] = " ".join(shlex.split(value))
        except ValueError:  # a quote that does not end
            continue
    return found


def from_older(path: str, text: str) -> dict[str, str]:
    """The same fields from one of ``OLDER``, empty when it says nothing known."""
    lines = text.strip().splitlines()
    if not lines:
        return {}
    version = re.search(r"\d+(?:\.\d+)*", lines[0])
    number = version[0] if version else ""
    if path.endswith("debian_version"):
        return {"ID": "debian", "VERSION_ID": number, "PRETTY_NAME": f"Debian GNU/Linux {lines[0]}"}
    if path.endswith("SuSE-release"):
        identity = "sles" if "Enterprise" in lines[0] else "opensuse"
        return {"ID": identity, "ID_LIKE": "suse", "VERSION_ID": number, "PRETTY_NAME": lines[0]}
    for word, identity, like in _RED_HATS:
        if word in lines[0]:
            return {"ID": identity, "ID_LIKE": like, "VERSION_ID": number, "PRETTY_NAME": lines[0]}
    return {}
