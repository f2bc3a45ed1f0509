"""From what both ends have and what the user asked for to a target environment that maps everything. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, StorageType
from coriolis.model.network_mapping import (
    Match,
    Proposal,
    Takes,
    described_network,
    listed_names,
    propose,
)

CREATE = "create_missing_networks"


class Plan(msgspec.Struct, frozen=True):
    """``target_environment``: the user's, with ``network_map``, ``storage_map`` and what else was found.

    ``networks``, ``security_groups``: what create_missing_networks would make. ``missing``: one sentence each, with
    what to do; none when the migration can go ahead. ``notes``: what differs, without standing in the way.
    """

    proposal: Proposal
    target_environment: dict[str, Any]
    networks: tuple[Network, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_plan(
    machines: Sequence[MachineSpec],
    origin: CloudConfiguration,
    destination: CloudConfiguration,
    takes: Takes,
    environment: Mapping[str, Any],
) -> Plan:
    """``environment``: the target environment as the user wrote it, ``network_map`` included."""
    create = bool(environment.get(CREATE, False))
    given_groups = bool(environment.get("security_groups"))
    proposal = propose(
        [_to_place(spec, environment) for spec in machines],
        origin,
        destination,
        network_map=environment.get("network_map") or {},
        storage_map=_storage_map(environment),
        takes=takes,
        create=create,
        storage_default=_storage_default(environment, takes),
    )
    if given_groups:  # they are every NIC's, whatever it had
        proposal = msgspec.structs.replace(proposal, security_groups=())
    networks, groups = _to_make(proposal, origin, destination)
    return Plan(
        proposal,
        _environment(machines, proposal, destination, takes, environment),
        networks,
        groups,
        tuple(_missing(machines, proposal, origin, destination, takes, create)),
        (
            *_notes(machines, proposal, destination, takes, create or given_groups),
            *_storage_notes(machines, proposal, destination.storage_types, takes, environment),
        ),
    )


def _mappings(environment: Mapping[str, Any], member: str, key: str) -> dict[str, str]:
    rows = (environment.get("storage_mappings") or {}).get(member) or ()
    return {str(row.get(key)): str(row.get("destination")) for row in rows}


def _to_place(spec: MachineSpec, environment: Mapping[str, Any]) -> MachineSpec:
    """Without disks that the user mapped one by one."""
    mapped = _mappings(environment, "disk_mappings", "disk_id")
    disks = tuple(disk for disk in spec.devices.disks if disk.id not in mapped)
    return msgspec.structs.replace(spec, devices=msgspec.structs.replace(spec.devices, disks=disks))


def _storage_map(environment: Mapping[str, Any]) -> dict[str, str]:
    return {**(environment.get("storage_map") or {}), **_mappings(environment, "backend_mappings", "source")}


def _storage_default(environment: Mapping[str, Any], takes: Takes) -> str:
    by_mapping = (environment.get("storage_mappings") or {}).get("default")
    return str(by_mapping or (takes.storage_member and environment.get(takes.storage_member)) or "")


def _to_make(
    proposal: Proposal, origin: CloudConfiguration, destination: CloudConfiguration
) -> tuple[tuple[Network, ...], tuple[SecurityGroup, ...]]:
    """Groups that the rules of others name are made with them."""
    wanted = {match.origin for match in proposal.networks if match.why == "to_make"}
    networks = tuple(one for one in origin.networks if one.name in wanted)
    if not any(match.why == "to_make" for match in proposal.security_groups):
        return networks, ()
    known = {one.name for one in destination.security_groups} | {"default"}
    used = {match.origin for match in proposal.security_groups}
    used |= {rule.remote_group for one in origin.security_groups for rule in one.rules}
    return networks, tuple(one for one in origin.security_groups if one.name in used and one.name not in known)


def _environment(
    machines: Sequence[MachineSpec],
    proposal: Proposal,
    destination: CloudConfiguration,
    takes: Takes,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """What the user wrote stays as it is; only what was not written is added."""
    found = dict(environment)
    networks = [one.name for one in destination.networks]
    chosen = {
        match.origin: match.destination if networks.count(match.destination) < 2 else match.destination_id
        for match in proposal.networks
        if match.why in ("same_name", "same_subnets", "as_written")
    }
    network_map = {**chosen, **(environment.get("network_map") or {})}
    if network_map:
        found["network_map"] = network_map
    placed = {m.origin: m.destination for m in proposal.storage_types if m.why in ("same_name", "only")}
    storage_map = {name: storage for name, storage in placed.items() if name and takes.accepts("storage_map")}
    mapped = _storage_map(environment)
    if storage_map := {name: storage for name, storage in storage_map.items() if name not in mapped}:
        found["storage_map"] = {**storage_map, **(environment.get("storage_map") or {})}
    if "" in placed and takes.storage_member:
        found[takes.storage_member] = placed[""]
    groups = _groups_of_all(machines)
    if groups and not environment.get(CREATE) and all(m.why == "same_name" for m in proposal.security_groups):
        found.setdefault("security_groups", list(groups))
    return found


def _groups_of_all(machines: Sequence[MachineSpec]) -> tuple[str, ...]:
    """The security groups, when every NIC has the same and they are not merely the default ones."""
    sets = {tuple(sorted(nic.security_groups)) for spec in machines for nic in spec.devices.nics}
    only = next(iter(sets)) if len(sets) == 1 else ()
    return () if only == ("default",) else only


def _missing(
    machines: Sequence[MachineSpec],
    proposal: Proposal,
    origin: CloudConfiguration,
    destination: CloudConfiguration,
    takes: Takes,
    create: bool,
) -> list[str]:
    ids = {nic.network_name: nic.network_id for spec in machines for nic in spec.devices.nics}
    said = []
    for match in _open(proposal.networks):
        why = "; ".join(match.differences) or "nothing there has its name or its subnets"
        text = f"network {match.origin!r}: {why}. Map it, --network '{match.origin}=NAME'; there are: "
        text += listed_names(destination.networks)
        if (
            not create
            and takes.accepts(CREATE)
            and described_network(match.origin, ids[match.origin], origin.networks)[0]
        ):
            text += f". Or let {CREATE} make it"
        said.append(text)
    for match in _open(proposal.security_groups):
        why = "; ".join(match.differences) or "the destination has none of this name"
        hint = "name others in security_groups" + ("" if create else f", or let {CREATE} make it")
        said.append(f"security group {match.origin!r}: {why}. Make it, {hint}")
    for match in _open(proposal.storage_types):
        said.append(f"storage {match.origin or 'of disks that have none'!r}: {'; '.join(match.differences)}")
    return said


def _open(matches: Sequence[Match]) -> list[Match]:
    return [match for match in matches if match.why in ("missing", "ambiguous")]


def _notes(
    machines: Sequence[MachineSpec],
    proposal: Proposal,
    destination: CloudConfiguration,
    takes: Takes,
    groups_are_settled: bool,
) -> list[str]:
    said = []
    if proposal.security_groups and takes.accepts("security_groups") and not groups_are_settled:
        sets = {tuple(sorted(nic.security_groups)) for spec in machines for nic in spec.devices.nics}
        if len(sets) > 1:
            said.append(
                f"the NICs have different security groups: only with {CREATE} does each keep its own; otherwise all"
                " get those of security_groups, or the project's default"
            )
    if proposal.storage_types and all(match.why == "default" for match in proposal.storage_types):
        said.append("the destination puts the disks where it puts disks by default")
    return said


def _storage_notes(
    machines: Sequence[MachineSpec],
    proposal: Proposal,
    there: Sequence[StorageType],
    takes: Takes,
    environment: Mapping[str, Any],
) -> list[str]:
    """Storage that is out of use, or has less left than the disks that go there have together. The disks may be thin,
    and something may be removed until then: nothing stands in the way yet."""
    by_disk = _mappings(environment, "disk_mappings", "disk_id")
    by_storage = {match.origin: match.destination_id or match.destination for match in proposal.storage_types}
    default = _storage_default(environment, takes)
    needed: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, str], StorageType] = {}
    for spec in machines:
        for disk in spec.devices.disks:
            wanted = by_disk.get(disk.id) or by_storage.get(disk.storage_backend_identifier) or default
            place = _place_of(wanted, there)
            if place is not None:
                key = (place.name, place.id)
                places[key], needed[key] = place, needed.get(key, 0) + disk.size_bytes
    said = []
    for key in sorted(places):
        place, need = places[key], needed[key]
        if not place.usable:
            said.append(f"storage {place.name!r} cannot be used now: it is out of reach, stopped or in maintenance")
        elif place.free_bytes is not None and place.free_bytes < need:
            said.append(
                f"storage {place.name!r} has {_gib(place.free_bytes)} left, and the disks that go there have "
                f"{_gib(need)}: free space or map some to another; thin disks take room only as they are written"
            )
    return said


def _place_of(wanted: str, there: Sequence[StorageType]) -> StorageType | None:
    """By id, else by name. None where it is not known; the destination's default is, where it has but one storage."""
    found = [one for one in there if wanted in (one.id, "")] or [one for one in there if one.name == wanted]
    return found[0] if len(found) == 1 else None


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
