"""Which of a destination's networks, security groups and storage types serve for those of an origin. Pure.

Nothing here decides for the user: it proposes, says why, and says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import msgspec

from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, StorageType

Why = Literal[
    "mapped", "same_name", "same_subnets", "as_written", "to_make", "only", "default", "ignored", "ambiguous", "missing"
]
MAX_LISTED = 12


class Match(msgspec.Struct, frozen=True, omit_defaults=True):
    """``origin``: a name there, empty for disks of no storage that has a name. ``destination_id`` is empty unless one
    was found. ``as_written``: the destination takes the name as it is; ``to_make``: create_missing_networks makes it;
    ``only``: there is one choice; ``ignored``: the destination has no such thing; with ``ambiguous`` and ``missing``
    the user must choose. ``differences``: sentences, none if equal.
    """

    origin: str
    why: Why
    destination: str = ""
    destination_id: str = ""
    differences: tuple[str, ...] = ()


class Takes(msgspec.Struct, frozen=True):
    """What a destination understands. ``members`` of its target environment, None when nobody said; the others as in
    ``coriolis.providers.capabilities``."""

    members: tuple[str, ...] | None = None
    free_networks: tuple[str, ...] = ()
    storage_member: str = ""
    storage_required: bool = False

    def accepts(self, member: str) -> bool:
        return self.members is None or member in self.members


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
    takes: Takes = Takes(),  # noqa: B008  # it is frozen
    create: bool = False,
    storage_default: str = "",
) -> Proposal:
    """``origin`` may be empty (a cloud that describes nothing): then names alone are compared.

    The maps are the user's: name or id at the origin -> name or id (of a network or of one of its subnets) at the
    destination. They go before everything. ``create``: what the origin describes may be made. ``storage_default``:
    where disks go that no map names, as the user said.
    """
    specs = list(machines)
    nics = [nic for spec in specs for nic in spec.devices.nics]
    networks = {nic.network_name: nic.network_id for nic in nics if nic.network_name}
    groups = sorted({name for nic in nics for name in nic.security_groups})
    storage = {disk.storage_backend_identifier for spec in specs for disk in spec.devices.disks}
    if not takes.storage_required or storage_default:
        storage -= {""}  # no storage that has a name: the destination's default
    return Proposal(
        networks=tuple(
            _network((name, networks[name]), origin.networks, destination.networks, network_map or {}, takes, create)
            for name in sorted(networks)
        ),
        security_groups=tuple(_group(name, origin, destination, takes, create) for name in groups),
        storage_types=tuple(
            _storage(name, origin, destination, storage_map or {}, takes, storage_default) for name in sorted(storage)
        ),
    )


def needed(machines: Iterable[MachineSpec], origin: CloudConfiguration) -> CloudConfiguration:
    """The part of an origin's configuration that these machines use: small enough to keep with a job.

    Security groups that the rules of used ones name are part of it; what storage has left is not: it is of a moment.
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
        storage_types=tuple(
            msgspec.structs.replace(one, free_bytes=None) for one in origin.storage_types if one.name in storage
        ),
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


def described_network(name: str, identity: str, known: Iterable[Network]) -> tuple[Network | None, str]:
    """The origin's network as it could be made elsewhere, or None and why it cannot."""
    listed = list(known)
    found = [one for one in listed if identity and one.id == identity] or [one for one in listed if one.name == name]
    if found and found[0].external:
        return None, "it leads out of its cloud"
    if len(found) != 1 or not found[0].subnets:
        return None, "its origin does not describe it"
    return found[0], ""


def _is_called(wanted: str, network: Network) -> bool:
    """``wanted``: id or name of one of its subnets, or ``network/subnet``."""
    of, separator, below = wanted.partition("/")
    inside = {text for subnet in network.subnets for text in (subnet.id, subnet.name)} - {""}
    return wanted in inside or bool(separator and of in (network.id, network.name) and below in inside)


def _network(
    who: tuple[str, str],
    known: tuple[Network, ...],
    there: tuple[Network, ...],
    chosen: Mapping[str, str],
    takes: Takes,
    create: bool,
) -> Match:
    name, identity = who
    described = (_named(known, identity) or _named(known, name))[:1]
    wanted = chosen.get(name) or chosen.get(identity)
    if wanted:
        found = _named(there, wanted) or [one for one in there if _is_called(wanted, one)]
        if not found and any(fnmatchcase(wanted, pattern) for pattern in takes.free_networks):
            return Match(name, "as_written", wanted)
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
    if "*" in takes.free_networks:
        return Match(name, "as_written", name)
    if create:
        made, why = described_network(name, identity, known)
        return Match(name, "to_make", name) if made else Match(name, "missing", differences=(f"it is not made: {why}",))
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


def _group(name: str, origin: CloudConfiguration, destination: CloudConfiguration, takes: Takes, create: bool) -> Match:
    if not takes.accepts("security_groups"):
        return Match(name, "ignored", differences=("this destination filters no packets",))
    described, found = _named(origin.security_groups, name), _named(destination.security_groups, name)
    if not found:
        return Match(name, "to_make", name) if create and described else Match(name, "missing")
    if len(described) != 1 or len(found) != 1:
        return _one(name, "same_name", found)
    here, there = set(described[0].rules), set(found[0].rules)
    said = []
    if here - there:
        said.append(f"{len(here - there)} of its rules are missing")
    if there - here:
        said.append(f"it has {len(there - here)} rules more")
    return _one(name, "same_name", found, tuple(said))


def listed_names(things: Sequence[Network] | Sequence[SecurityGroup] | Sequence[StorageType]) -> str:
    """For a sentence: some of their names, and how many more there are."""
    names = [one.name for one in things]
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "none") + more


def _storage(
    name: str,
    origin: CloudConfiguration,
    destination: CloudConfiguration,
    chosen: Mapping[str, str],
    takes: Takes,
    default: str,
) -> Match:
    there = destination.storage_types
    wanted = chosen.get(name) or ""
    if default and not wanted and not _named(there, name):
        wanted = default
    found = _named(there, wanted or name) if wanted or takes.accepts("storage_map") else []
    if not found and wanted:
        return Match(name, "missing", wanted, differences=(f"it is mapped to {wanted}, which is not there",))
    if not found and not takes.storage_required:
        return Match(name, "default")  # a destination that is told nothing uses its own
    if not found:
        if len(there) == 1:
            return Match(name, "only", there[0].name, there[0].id)
        return Match(name, "ambiguous", differences=(f"choose where disks go: {listed_names(there)}",))
    described = _named(origin.storage_types, name)
    said: tuple[str, ...] = ()
    if len(described) == 1 and described[0].encrypted and not found[0].encrypted:
        said = ("it is not encrypted",)
    return _one(name, "mapped" if wanted else "same_name", found, said)
