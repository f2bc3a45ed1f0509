"""What a cloud has besides machines: networks, security groups, kinds of storage. The same values at both ends.

Every provider that knows them gives them; names are what is compared, since ids are of one cloud alone.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Subnet(msgspec.Struct, frozen=True, omit_defaults=True):
    """``cidr``: ``10.0.0.0/24``. ``gateway``: an address or "". ``pools``: (first, last) address of each range that
    may be given out; none means all. ``routes``: (destination as cidr, next hop).

    ``ipv6_ra_mode`` and ``ipv6_address_mode``: Neutron's words (``slaac``, ``dhcpv6-stateful``, …), "" for IPv4.
    """

    name: str
    cidr: str
    id: str = ""
    gateway: str = ""
    pools: tuple[tuple[str, str], ...] = ()
    dns_servers: tuple[str, ...] = ()
    dhcp: bool = True
    routes: tuple[tuple[str, str], ...] = ()
    ipv6_ra_mode: str = ""
    ipv6_address_mode: str = ""

    @property
    def ip_version(self) -> Literal[4, 6]:
        return 6 if ":" in self.cidr else 4


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """``mtu`` 0: unknown. ``external``: it leads out of the cloud. ``shared``: it belongs to another project.

    ``kind``: the cloud's word (vSphere: ``standard``, ``distributed``, ``opaque``; libvirt: its forward mode, or
    ``isolated``). ``vlan``: ids and ranges (``12``, ``10-20, 30``), ``none`` for untagged, "" unknown. ``bridge``: on
    the host.
    """

    name: str
    id: str = ""
    subnets: tuple[Subnet, ...] = ()
    mtu: int = 0
    shared: bool = False
    external: bool = False
    port_security: bool = True
    kind: str = ""
    vlan: str = ""
    bridge: str = ""


class SecurityRule(msgspec.Struct, frozen=True, omit_defaults=True, order=True):
    """``protocol`` and ``remote_cidr`` "": any; ports -1: all (of ICMP: type and code). ``remote_group``: a name."""

    direction: Literal["ingress", "egress"]
    ethertype: Literal["IPv4", "IPv6"] = "IPv4"
    protocol: str = ""
    port_first: int = -1
    port_last: int = -1
    remote_cidr: str = ""
    remote_group: str = ""


class SecurityGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """``rules`` are sorted and allow; what none allows is refused."""

    name: str
    id: str = ""
    description: str = ""
    rules: tuple[SecurityRule, ...] = ()
    stateful: bool = True


class StorageType(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume type, or whatever a cloud calls it. ``kind``: its word (``VMFS``, ``dir``). Bytes are None where the
    cloud does not tell. ``usable``: false while it is out of reach, stopped or in maintenance."""

    name: str
    id: str = ""
    description: str = ""
    encrypted: bool = False
    multiattach: bool = False
    kind: str = ""
    capacity_bytes: int | None = None
    free_bytes: int | None = None
    usable: bool = True


class CloudConfiguration(msgspec.Struct, frozen=True, omit_defaults=True):
    """Each in order of name, then id."""

    networks: tuple[Network, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    storage_types: tuple[StorageType, ...] = ()
