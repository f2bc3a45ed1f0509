"""NetworkManager's keyfiles. Pure."""

from __future__ import annotations

from coriolis.convert.linux import sections
from coriolis.convert.linux.network import Interface, macs_in, physical

_ETHERNET = ("ethernet", "802-3-ethernet")
_STATIC = r"address\d*|addresses\d*|route\d*(?:_options)?|routes\d*|gateway|dns|dns-search"
_PORT_OF = ("master", "controller")


def names(text: str) -> list[str]:
    return physical(value for one in sections.split(text) for value in one.values("interface-name"))


def bound(text: str) -> list[tuple[str, str]]:
    """(MAC, name) of a connection with ``mac-address``; the name is empty when it states none."""
    parts = sections.split(text)
    macs = {mac for one in parts if one.name in _ETHERNET for mac in macs_in(one.value("mac-address"))}
    return [(mac, next(iter(names(text)), "")) for mac in sorted(macs)]


def to_dhcp(text: str, interface: Interface) -> str:
    """``text`` with a static connection of the interface made automatic. A port of a bond or bridge stays."""
    parts = sections.split(text)
    kinds = [one.value("type") for one in parts if one.name == "connection"]
    mine = interface.name in names(text) or interface.mac in {mac for mac, _ in bound(text)}
    port = any(one.value(key) for one in parts if one.name == "connection" for key in _PORT_OF)
    if not mine or port or not set(kinds) & set(_ETHERNET):
        return text
    changed = False
    for one in parts:
        if one.name in ("ipv4", "ipv6") and one.value("method") == "manual":
            one.drop(_STATIC)
            one.put("method", "auto")
            changed = True
    return sections.join(parts) if changed else text
