"""What distributions older than os-release(5) say of themselves, in its words. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
RELEASE_FILES = (
    "/etc/oracle-release",
    "/etc/centos-release",
    "/etc/redhat-release",
    "/etc/system-release",
    "/etc/SuSE-release",
    "/etc/lsb-release",
    "/etc/debian_version",
)
_REDHAT_IDS = (
    ("centos", "centos"),
    ("oracle", "ol"),
    ("fedora", "fedora"),
    ("amazon", "amzn"),
    ("alma", "almalinux"),
    ("rocky", "rocky"),
    ("red hat", "rhel"),
)


def release_from(texts: Mapping[str, str]) -> dict[str, str]:
    """ID, VERSION_ID and PRETTY_NAME by the release files there are (path -> text); empty when none is known."""
    for path in RELEASE_FILES[:4]:
        first = texts.get(path, "").partition("\n")[0].strip()
        identity = next((name for word, name in _REDHAT_IDS if word in first.lower()), "")
        if identity:
            return _facts(identity, first)
    suse = texts.get("/etc/SuSE-release", "")
    if "suse" in suse.lower():
        version = _assigned(suse, "VERSION")
        level = _assigned(suse, "PATCHLEVEL")
        first = suse.partition("\n")[0].strip()
        identity = "sles" if "enterprise" in first.lower() else "opensuse"
        return _facts(identity, first) | {"VERSION_ID": f"{version}.{level}" if level not in ("", "0") else version}
    lsb = texts.get("/etc/lsb-release", "")
    if _assigned(lsb, "DISTRIB_ID"):
        title = _assigned(lsb, "DISTRIB_DESCRIPTION")
        return _facts(_assigned(lsb, "DISTRIB_ID").lower(), title) | {"VERSION_ID": _assigned(lsb, "DISTRIB_RELEASE")}
    debian = texts.get("/etc/debian_version", "").strip()
    return _facts("debian", f"Debian GNU/Linux {debian}") | {"VERSION_ID": _number(debian)} if debian else {}


def _facts(identity: str, title: str) -> dict[str, str]:
    return {"ID": identity, "VERSION_ID": _number(title), "PRETTY_NAME": title}


def _number(text: str) -> str:
    match = re.search(r"\d+(?:\.\d+)*", text)
    return match[0] if match else ""


def _assigned(text: str, name: str) -> str:
    match = re.search(rf"(?m)^[ \t]*{name}[ \t]*=[ \t]*\"?([^\"\n]*)", text)
    return match[1].strip() if match else ""
