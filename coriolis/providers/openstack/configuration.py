"""Documents of Neutron and Cinder -> the neutral values of ``coriolis.model.network``. Pure.

Shapes: Networking API v2.0 (networks, subnets, security groups with their rules), Block Storage API v3 (types).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coriolis.model.network import Network, SecurityGroup, SecurityRule, StorageType, Subnet
from coriolis.providers.openstack.cloud_errors import printable

MAX_NAME_CHARS = 255

Document = Mapping[str, Any]


def _text(value: object) -> str:
    return printable(value or "", MAX_NAME_CHARS)


def usable(things: Iterable[Document], project_id: str) -> list[Document]:
    """Networks or security groups that are for the project's machines: Neutron shows an administrator, whose token is
    of one project, those of all others too, and names repeat among them."""
    return [
        one
        for one in things
        if str(one.get("project_id") or one.get("tenant_id")) == project_id
        or one.get("shared")
        or one.get("router:external")
    ]


def networks_of(networks: Iterable[Document], subnets: Iterable[Document], project_id: str) -> tuple[Network, ...]:
    """In order of name, then id. ``project_id``: whose network is not shared."""
    inside: dict[str, list[Subnet]] = {}
    for one in sorted(subnets, key=lambda subnet: (str(subnet.get("name")), str(subnet["id"]))):
        inside.setdefault(str(one["network_id"]), []).append(_subnet(one))
    found = [
        Network(
            name=_text(one.get("name")) or str(one["id"]),
            id=str(one["id"]),
            subnets=tuple(inside.get(str(one["id"]), ())),
            mtu=int(one.get("mtu") or 0),
            shared=str(one.get("project_id") or one.get("tenant_id")) != project_id,
            external=bool(one.get("router:external")),
            port_security=bool(one.get("port_security_enabled", True)),
        )
        for one in networks
    ]
    return tuple(sorted(found, key=lambda network: (network.name, network.id)))


def _subnet(one: Document) -> Subnet:
    return Subnet(
        name=_text(one.get("name")),
        cidr=_text(one.get("cidr")),
        id=str(one["id"]),
        gateway=_text(one.get("gateway_ip")),
        pools=tuple((_text(pool.get("start")), _text(pool.get("end"))) for pool in one.get("allocation_pools") or ()),
        dns_servers=tuple(_text(server) for server in one.get("dns_nameservers") or ()),
        dhcp=bool(one.get("enable_dhcp", True)),
        routes=tuple((_text(to.get("destination")), _text(to.get("nexthop"))) for to in one.get("host_routes") or ()),
        ipv6_ra_mode=_text(one.get("ipv6_ra_mode")),
        ipv6_address_mode=_text(one.get("ipv6_address_mode")),
    )


def groups_of(groups: Iterable[Document]) -> tuple[SecurityGroup, ...]:
    """In order of name, then id; rules that name a group name it as this cloud calls it."""
    listed = list(groups)
    names = {str(one["id"]): _text(one.get("name")) for one in listed}
    found = [
        SecurityGroup(
            name=names[str(one["id"])],
            id=str(one["id"]),
            description=_text(one.get("description")),
            rules=tuple(sorted({_rule(rule, names) for rule in one.get("security_group_rules") or ()})),
            stateful=bool(one.get("stateful", True)),
        )
        for one in listed
    ]
    return tuple(sorted(found, key=lambda group: (group.name, group.id)))


def _rule(rule: Document, names: Mapping[str, str]) -> SecurityRule:
    """``remote_group`` that is not the project's keeps its id. A group of addresses counts as one that nobody has:
    a rule without a remote would let everybody in."""
    group, addresses = str(rule.get("remote_group_id") or ""), str(rule.get("remote_address_group_id") or "")
    return SecurityRule(
        direction="egress" if rule.get("direction") == "egress" else "ingress",
        ethertype="IPv6" if rule.get("ethertype") == "IPv6" else "IPv4",
        protocol=_text(rule.get("protocol")),
        port_first=_port(rule.get("port_range_min")),
        port_last=_port(rule.get("port_range_max")),
        remote_cidr=_text(rule.get("remote_ip_prefix")),
        remote_group=names.get(group, group) or (f"address group {_text(addresses)}" if addresses else ""),
    )


def _port(value: object) -> int:
    return value if isinstance(value, int) else -1


def types_of(types: Iterable[Document]) -> tuple[StorageType, ...]:
    """In order of name. A tenant sees ``multiattach`` of a type, but whether it encrypts only where Cinder's policy
    lets it; volumes say it of themselves."""
    found = [
        StorageType(
            name=_text(one.get("name")) or str(one["id"]),
            id=str(one["id"]),
            description=_text(one.get("description")),
            encrypted=bool(one.get("encryption")),
            multiattach="true" in str((one.get("extra_specs") or {}).get("multiattach", "")).lower(),
        )
        for one in types
    ]
    return tuple(sorted(found, key=lambda kind: (kind.name, kind.id)))
