"""``ifcfg-*`` files of Red Hat's network scripts and NetworkManager, and of SUSE's wicked. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from coriolis.convert.linux.network import Interface, macs_in, physical

_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$")
_STATIC = re.compile(
    r"IPADDR\w*|NETMASK\w*|PREFIX\w*|GATEWAY\w*|DNS\d*|DOMAIN|SEARCH|BROADCAST\w*|NETWORK\d*|LABEL\w*|"
    r"REMOTE_IPADDR\w*|SCOPE\w*|IPV6ADDR\w*|IPV6_DEFAULTGW|ARPCHECK"
)
Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_PORT_OF = ("MASTER", "MASTER_UUID", "BRIDGE", "TEAM_MASTER", "BONDING_MASTER", "ETHERDEVICE")


def values(text: str) -> dict[str, str]:
    """The assignments, unquoted; the last of a name counts."""
    found = (_LINE.match(line) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {match[1]: match[2].strip().strip("\"'") for match in found if match}


def names(file_name: str, text: str) -> list[str]:
    """``DEVICE``, or what the file's own name says."""
    return physical([values(text).get("DEVICE") or file_name.removeprefix("ifcfg-")])


def bound(file_name: str, text: str) -> list[tuple[str, str]]:
    """(MAC, name) of a file with ``HWADDR`` (or SUSE's ``LLADDR`` of old)."""
    given = macs_in(values(text).get("HWADDR", ""))
    return [(mac, next(iter(names(file_name, text)), "")) for mac in sorted(given)]


def to_dhcp(file_name: str, text: str, interface: Interface) -> str:
    """``text`` with the interface by DHCP. A port of a bond, bridge or team stays."""
    have = values(text)
    mine = interface.name in names(file_name, text) or interface.mac in macs_in(have.get("HWADDR", ""))
    port = any(have.get(key, "").lower() not in ("", "no") for key in _PORT_OF)
    static = any(_STATIC.fullmatch(name) for name in have)
    if not mine or port or not (static or have.get("BOOTPROTO", "").lower() in ("none", "static")):
        return text
    quote = "'" if re.search(r"(?m)^\s*BOOTPROTO='", text) else ""
    out, placed = [], False
    for line in text.splitlines(keepends=True):
        match = _LINE.match(line)
        name = match[1] if match and not line.lstrip().startswith("#") else ""
        if name == "BOOTPROTO":
            out += [] if placed else [f"BOOTPROTO={quote}dhcp{quote}\n"]
            placed = True
        elif not _STATIC.fullmatch(name):
            out.append(line)
    added = [] if placed else ["BOOTPROTO=dhcp\n"]
    if any(name.startswith("IPV6ADDR") for name in have):
        out = [line for line in out if not line.lstrip().startswith("IPV6_AUTOCONF=")]
        added.append("IPV6_AUTOCONF=yes\n")
    if out and added and not out[-1].endswith("\n"):
        out[-1] += "\n"
    return "".join([*out, *added])


def companions(interface: Interface, present: Iterable[str]) -> list[str]:
    """Names of the files beside ``ifcfg-*`` with static routes, rules and aliases of the interface."""
    name = re.escape(interface.name)
    pattern = re.compile(rf"(?:route6?|rule6?|ifroute)-{name}|ifcfg-{name}:.+")
    return [one for one in present if pattern.fullmatch(one)]


def networks_of(text: str) -> list[Address]:
    """The static addresses of one file with their networks, as far as they can be read."""
    have = values(text)
    found = []
    for key, address in have.items():
        match = re.fullmatch(r"IPADDR(\w*)", key)
        if match and address:
            mask = have.get(f"PREFIX{match[1]}") or have.get(f"NETMASK{match[1]}") or have.get(f"PREFIXLEN{match[1]}")
            try:
                found.append(ipaddress.ip_interface(address if "/" in address or not mask else f"{address}/{mask}"))
            except ValueError:
                continue  # the guest would not have understood it either
    return found


def without_gateway(text: str, interface: Interface, own: Sequence[Address]) -> str:
    """Red Hat's ``/etc/sysconfig/network`` without a gateway of the interface."""
    have = values(text)
    gateway = have.get("GATEWAY", "")
    if have.get("GATEWAYDEV") != interface.name and not (gateway and _inside(gateway, own)):
        return text
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"\s*GATEWAY(?:DEV)?=", line))


def _inside(gateway: str, own: Sequence[Address]) -> bool:
    try:
        address = ipaddress.ip_address(gateway)
    except ValueError:
        return False
    return any(address in one.network for one in own)


def routes_without(text: str, interface: Interface, own: Sequence[Address]) -> str:
    """SUSE's ``routes`` without those of the interface: by its name, or by a gateway in one of its networks."""

    def belongs(line: str) -> bool:
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            return False
        if len(fields) > 3 and fields[3] not in ("-", ""):
            return fields[3] == interface.name
        return _inside(fields[1], own)

    return "".join(line for line in text.splitlines(keepends=True) if not belongs(line))
