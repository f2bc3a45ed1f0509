"""systemd-networkd's ``.network`` files. Pure."""

from __future__ import annotations

from coriolis.convert.linux import sections
from coriolis.convert.linux.network import Interface, macs_in, physical

_STATIC = "Address|Gateway|DNS|Domains|Broadcast|IPv6Token"
_STATIC_SECTIONS = ("Address", "Route", "RoutingPolicyRule")
_PORT_OF = ("Bond", "Bridge")


def names(text: str) -> list[str]:
    words = [word for one in _matches(text) for value in one.values("Name") for word in value.split()]
    return physical(words)


def bound(text: str) -> list[tuple[str, str]]:
    """(MAC, name) of a file that matches by ``MACAddress``; the name is empty when it states none."""
    macs = {
        mac
        for one in _matches(text)
        for key in ("MACAddress", "PermanentMACAddress")
        for mac in macs_in(one.value(key))
    }
    return [(mac, next(iter(names(text)), "")) for mac in sorted(macs)]


def to_dhcp(text: str, interface: Interface) -> str:
    """``text`` with the interface by DHCP. A port of a bond or bridge stays."""
    mine = interface.name in names(text) or interface.mac in {mac for mac, _ in bound(text)}
    parts = sections.split(text)
    network = next((one for one in parts if one.name == "Network"), None)
    port = network is not None and any(network.value(key) for key in _PORT_OF)
    static = any(one.name in _STATIC_SECTIONS for one in parts) or (network is not None and network.value("Address"))
    if not mine or port or not static:
        return text
    if network is None:
        network = sections.Section("[Network]\n", "Network")
        parts.append(network)
    for one in parts:
        if one.name == "Network":
            one.drop(_STATIC)
    network.put("DHCP", "yes")
    return sections.join(one for one in parts if one.name not in _STATIC_SECTIONS)


def _matches(text: str) -> list[sections.Section]:
    return [one for one in sections.split(text) if one.name == "Match"]
