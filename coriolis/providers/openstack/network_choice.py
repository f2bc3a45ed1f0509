"""Which network and subnet each NIC goes to, and which of its addresses it may keep. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from coriolis.convert.text import shown
from coriolis.errors import Conflict, InvalidInput
from coriolis.model.resource import InstanceRequest

MAX_LISTED = 12


class Network(msgspec.Struct, frozen=True):
    """``filtered``: Neutron takes security groups for its ports (port security is on)."""

    id: str
    name: str
    filtered: bool = True


class Subnet(msgspec.Struct, frozen=True):
    id: str
    name: str
    network_id: str
    cidr: str


class NicPlace(msgspec.Struct, frozen=True):
    """``subnet_id`` is "" when Neutron may choose. ``fixed_ips``: (subnet id, address)."""

    mac: str
    network_id: str
    subnet_id: str = ""
    fixed_ips: tuple[tuple[str, str], ...] = ()
    lost_ips: tuple[str, ...] = ()
    filtered: bool = True


Place = TypeVar("Place", Network, Subnet)


def networks_of(request: InstanceRequest) -> list[str]:
    """What ``network_map`` says for each NIC. Raises InvalidInput."""
    network_map = {**request.environment.get("network_map", {}), **request.network_map}
    found = []
    for nic in request.spec.devices.nics:
        wanted = network_map.get(nic.network_name) or network_map.get(nic.network_id)
        if not wanted:
            raise InvalidInput(f"network_map has no entry for the origin network {shown(nic.network_name)}")
        found.append(wanted)
    return found


def find(wanted: str, networks: Sequence[Network], subnets: Sequence[Subnet]) -> tuple[str, str]:
    """(network id, subnet id or ""). Raises InvalidInput that lists them, Conflict when several match."""
    network = _one(wanted, networks, "network")
    if network is not None:
        return network.id, ""
    subnet = _one(wanted, subnets, "subnet")
    if subnet is not None:
        return subnet.network_id, subnet.id
    of, separator, below = wanted.partition("/")
    outer = _one(of, networks, "network") if separator else None
    if outer is not None:
        inner = _one(below, [one for one in subnets if one.network_id == outer.id], "subnet")
        if inner is not None:
            return outer.id, inner.id
    known = sorted(shown(one.name or one.id) for one in networks)
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    raise InvalidInput(
        f"network_map names {shown(wanted)}, which is neither a network nor a subnet; networks:"
        f" {', '.join(known[:MAX_LISTED]) or 'none'}{more}"
    )


def _one(wanted: str, places: Sequence[Place], what: str) -> Place | None:
    found = [one for one in places if one.id == wanted] or [one for one in places if one.name == wanted]
    if len(found) > 1:
        ids = ", ".join(one.id for one in found[:MAX_LISTED])
        raise Conflict(f"network_map: {len(found)} {what}s are called {shown(wanted)}; give an id: {ids}")
    return found[0] if found else None


def place(request: InstanceRequest, networks: Sequence[Network], subnets: Sequence[Subnet]) -> tuple[NicPlace, ...]:
    """Of each NIC. Raises InvalidInput, Conflict."""
    keep_ips, found = bool(request.environment.get("keep_ips", False)), []
    for nic, wanted in zip(request.spec.devices.nics, networks_of(request), strict=True):
        network_id, subnet_id = find(wanted, networks, subnets)
        there = [one for one in subnets if one.network_id == network_id and subnet_id in ("", one.id)]
        kept, lost = _keep(nic.ip_addresses if keep_ips else (), there)
        filtered = all(one.filtered for one in networks if one.id == network_id)
        found.append(NicPlace(nic.mac_address or "", network_id, subnet_id, kept, lost, filtered))
    return tuple(found)


def _keep(addresses: Sequence[str], subnets: Sequence[Subnet]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    kept: list[tuple[str, str]] = []
    lost: list[str] = []
    for text in addresses:
        try:
            address = ipaddress.ip_address(text.partition("/")[0])
        except ValueError:
            continue
        if address.is_link_local or address.is_loopback:
            continue
        homes = [one.id for one in subnets if address in ipaddress.ip_network(one.cidr)]
        if homes:
            kept.append((homes[0], str(address)))
        else:
            lost.append(str(address))
    return tuple(kept), tuple(lost)


def port_body(nic: NicPlace, name: str, tag: str, groups: Sequence[str], *, mac: bool = True) -> dict[str, Any]:
    """What Neutron is asked to make. ``groups``: ids of security groups; none: the project's default.

    They are left out where the network filters nothing: Neutron refuses such a port."""
    body: dict[str, Any] = {"network_id": nic.network_id, "name": name, "description": tag, "admin_state_up": True}
    if mac and nic.mac:
        body["mac_address"] = nic.mac
    if nic.fixed_ips:
        body["fixed_ips"] = [{"subnet_id": subnet, "ip_address": address} for subnet, address in nic.fixed_ips]
    elif nic.subnet_id:
        body["fixed_ips"] = [{"subnet_id": nic.subnet_id}]
    if groups and nic.filtered:
        body["security_groups"] = list(groups)
    return body
