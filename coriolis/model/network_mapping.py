"""Which of a destination's networks, security groups and storage types serve for those of an origin. Pure.

Nothing here decides for the user: it proposes, says why, and says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

import msgspec

from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, StorageType

Why = Literal["mapped", "same_name", "same_subnets", "default", "ambiguous", "missing"]


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """``origin``: a name there. ``destination_id`` is empty unless one was found; with ``missing`` it can be made
    when the origin described it, with ``ambiguous`` the user must choose. ``differences``: sentences, none if equal.
    """

    origin: str
    why: Why
    destination: str = ""
    destination_id: str = ""
    differences: tuple[str, ...] = ()


class Proposal(msgspec.Struct, frozen=True, omit_defaults=True):
    """One match for each network, security group and storage type that the machines use, in order of name."""

    networks: tuple[Match, ...] = ()
    security_groups: tuple[Match, ...] = ()
    storage_types: tuple[Match, ...] = ()

    @property
    def complete(self) -> bool:
        """Nothing is missing or left to choose."""
        every = (*self.networks, *self.security_groups, *self.storage_types)
        return all(match.why not in ("missing", "ambiguous") for match in every)


_Thing = TypeVar("_Thing", Network, SecurityGroup, StorageType)


def propose(
    machines: Iterable[MachineSpec],
    origin: CloudConfiguration,
    destination: CloudConfiguration,
    *,
    network_map: Mapping[str, str] | None = None,
    storage_map: Mapping[str, str] | None = None,
) -> Proposal:
    """``origin`` may be empty (a cloud that describes nothing): then names alone are compared.

    The maps are the user's: name or id at the origin -> name or id (of a network or of one of its subnets) at the
    destination. They go before everything.
    """
    specs = list(machines)
    nics = [nic for spec in specs for nic in spec.devices.nics]
    networks = {nic.network_name: nic.network_id for nic in nics if nic.network_name}
    groups = sorted({name for nic in nics for name in nic.security_groups})
    storage = sorted(
        {disk.storage_backend_identifier for spec in specs for disk in spec.devices.disks} - {""}  # no type: default
    )
    return Proposal(
        networks=tuple(
            _network(name, networks[name], origin.networks, destination.networks, network_map or {})
            for name in sorted(networks)
        ),
        security_groups=tuple(_group(name, origin, destination) for name in groups),
        storage_types=tuple(_storage(name, origin, destination, storage_map or {}) for name in storage),
    )


def needed(machines: Iterable[MachineSpec], origin: CloudConfiguration) -> CloudConfiguration:
    """The part of an origin's configuration that these machines use: small enough to keep with a job.

    Security groups that the rules of used ones name are part of it.
    """
    specs = list(machines)
    nics = [nic for spec in specs for nic in spec.devices.nics]
    wanted = {text for nic in nics for text in (nic.network_id, nic.network_name) if text}
    groups = {name for nic in nics for name in nic.security_groups}
    while True:
        named = {rule.remote_group for one in origin.security_groups if one.name in groups for rule in one.rules}
        more = (named - {""}) - groups
        if not more:
            break
        groups |= more
    storage = {disk.storage_backend_identifier for spec in specs for disk in spec.devices.disks}
    return CloudConfiguration(
        networks=tuple(one for one in origin.networks if one.id in wanted or (not one.id and one.name in wanted)),
        security_groups=tuple(one for one in origin.security_groups if one.name in groups),
        storage_types=tuple(one for one in origin.storage_types if one.name in storage),
    )


def _named(things: Iterable[_Thing], wanted: str) -> list[_Thing]:
    """By id, else by name."""
    listed = list(things)
    return [one for one in listed if one.id == wanted] or [one for one in listed if one.name == wanted]


def _one(origin: str, why: Why, found: list[_Thing], differences: tuple[str, ...] = ()) -> Match:
    if len(found) == 1:
        return Match(origin, why, found[0].name, found[0].id, differences)
    ids = ", ".join(one.id for one in found)
    return Match(origin, "ambiguous", differences=(f"several have the name {found[0].name}: {ids}",))


def _network(
    name: str, identity: str, known: tuple[Network, ...], there: tuple[Network, ...], chosen: Mapping[str, str]
) -> Match:
    described = (_named(known, identity) or _named(known, name))[:1]
    wanted = chosen.get(name) or chosen.get(identity)
    if wanted:
        found = _named(there, wanted) or [
            one for one in there if any(wanted in (subnet.id, subnet.name) for subnet in one.subnets)
        ]
        if not found:
            return Match(name, "missing", wanted, differences=(f"it is mapped to {wanted}, which is not there",))
        return _one(name, "mapped", found, network_differences(described, found))
    same = _named(there, name)
    if same:
        return _one(name, "same_name", same, network_differences(described, same))
    cidrs = cidrs_of(described)
    if cidrs:
        alike = [one for one in there if cidrs_of([one]) == cidrs]
        if len(alike) == 1:
            return _one(name, "same_subnets", alike, network_differences(described, alike))
    return Match(name, "missing")


def cidrs_of(networks: Iterable[Network]) -> frozenset[str]:
    return frozenset(subnet.cidr for one in networks for subnet in one.subnets)


def network_differences(described: list[Network], found: list[Network]) -> tuple[str, ...]:
    """What a guest with fixed addresses, or large packets, would notice."""
    if len(described) != 1 or len(found) != 1:
        return ()
    here, there = described[0], found[0]
    said = []
    if cidrs_of(described) != cidrs_of(found):
        said.append(f"its subnets are {_listed(cidrs_of(found))} instead of {_listed(cidrs_of(described))}")
    else:
        gateways = {subnet.cidr: subnet.gateway for subnet in there.subnets}
        said += [
            f"the gateway of {subnet.cidr} is {gateways[subnet.cidr] or 'none'} instead of {subnet.gateway or 'none'}"
            for subnet in here.subnets
            if gateways[subnet.cidr] != subnet.gateway
        ]
    if here.mtu and there.mtu and there.mtu < here.mtu:
        said.append(f"its MTU is {there.mtu} instead of {here.mtu}")
    return tuple(said)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _group(name: str, origin: CloudConfiguration, destination: CloudConfiguration) -> Match:
    described, found = _named(origin.security_groups, name), _named(destination.security_groups, name)
    if not found:
        return Match(name, "missing")
    if len(described) != 1 or len(found) != 1:
        return _one(name, "same_name", found)
    here, there = set(described[0].rules), set(found[0].rules)
    said = []
    if here - there:
        said.append(f"{len(here - there)} of its rules are missing")
    if there - here:
        said.append(f"it has {len(there - here)} rules more")
    return _one(name, "same_name", found, tuple(said))


def _storage(
    name: str, origin: CloudConfiguration, destination: CloudConfiguration, chosen: Mapping[str, str]
) -> Match:
    wanted = chosen.get(name)
    found = _named(destination.storage_types, wanted or name)
    if not found:
        # a destination that is told nothing uses its own default
        said = (f"it is mapped to {wanted}, which is not there",) if wanted else ()
        return Match(name, "missing" if wanted else "default", wanted or "", differences=said)
    described = _named(origin.storage_types, name)
    said = ()
    if len(described) == 1 and described[0].encrypted and not found[0].encrypted:
        said = ("it is not encrypted",)
    return _one(name, "mapped" if wanted else "same_name", found, said)
