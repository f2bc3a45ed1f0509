"""Networks and storage pools of a libvirt host as its XML describes them. Pure.

Formats: libvirt's Network XML and Storage Pool XML. What dnsmasq then announces for IPv6 (``ra-only`` without a DHCP
range) and that a network without ``<forward>`` is isolated are from the same pages.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_interface

from coriolis.model.network import Network, StorageType, Subnet

RUNNING = 2
"""VIR_STORAGE_POOL_RUNNING."""
NO_MODE = "nat"
"""Of a ``<forward>`` that states none."""


def network_of(xml: str) -> Network:
    """Names are their own ids, as libvirt keeps them unique. ``kind``: the forward mode, or ``isolated``."""
    root = ET.fromstring(xml)
    name, forward, bridge, mtu = root.findtext("name", ""), root.find("forward"), root.find("bridge"), root.find("mtu")
    kind = "isolated" if forward is None else forward.get("mode") or NO_MODE
    subnets = [_subnet(address, kind) for address in root.findall("ip")]
    return Network(
        name,
        name,
        tuple(one for one in subnets if one is not None),
        mtu=int(mtu.get("size", "0")) if mtu is not None else 0,
        kind=kind,
        vlan=", ".join(tag.get("id", "") for tag in root.findall("vlan/tag")),
        bridge=(bridge.get("name") or "") if bridge is not None else "",
    )


def _subnet(address: ET.Element, kind: str) -> Subnet | None:
    """None without an address: then nobody on the network has one from libvirt."""
    own = address.get("address", "")
    if not own:
        return None
    is_v6 = address.get("family") == "ipv6"
    mask = address.get("prefix") or address.get("netmask") or ("64" if is_v6 else _class_prefix(own))
    cidr = ip_interface(f"{own}/{mask}").network
    ranges = [(one.get("start", ""), one.get("end", "")) for one in address.findall("dhcp/range")]
    mode = _ipv6_mode(cidr, bool(ranges))
    return Subnet(
        "",
        str(cidr),
        gateway="" if kind == "isolated" else own,
        pools=tuple(ranges),
        dhcp=bool(ranges) or bool(mode),
        ipv6_ra_mode=mode,
        ipv6_address_mode=mode,
    )


def _class_prefix(address: str) -> str:
    first = int(address.split(".")[0])
    return "8" if first < 128 else "16" if first < 192 else "24"


def _ipv6_mode(cidr: IPv4Network | IPv6Network, has_ranges: bool) -> str:
    if cidr.version == 4:
        return ""
    return "dhcpv6-stateful" if has_ranges else "slaac"


def pool_of(xml: str, info: Sequence[int]) -> StorageType:
    """``info``: what virStoragePoolGetInfo tells: state, bytes of capacity, allocation and what is available. All are 0
    of a pool that does not run."""
    root = ET.fromstring(xml)
    name, usable = root.findtext("name", ""), info[0] == RUNNING
    return StorageType(
        name,
        name,
        kind=root.get("type", ""),
        capacity_bytes=info[1] if usable else None,
        free_bytes=info[3] if usable else None,
        usable=usable,
    )
