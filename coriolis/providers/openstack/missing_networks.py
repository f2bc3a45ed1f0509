"""Networks and security groups that an origin describes, made at the destination for a job that asks for it.

What is made carries the job's tag and the machine's id in its description, so that a repeat finds it and a failed job
removes it. What somebody uses stays.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from coriolis.convert.text import shown
from coriolis.errors import Conflict, InvalidInput
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, SecurityRule, Subnet
from coriolis.model.network_mapping import described_network
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.openstack.configuration import groups_of, usable
from coriolis.providers.openstack.rest import ask, listed, make_once, remove
from coriolis.providers.openstack.session import Cloud, Session

Document = Mapping[str, Any]


class ToMake(msgspec.Struct, frozen=True):
    """What is missing at the destination, as the origin describes it."""

    networks: tuple[Network, ...] = ()
    groups: tuple[SecurityGroup, ...] = ()


def is_asked_for(request: InstanceRequest) -> bool:
    return bool(request.environment.get("create_missing_networks", False))


def missing(request: InstanceRequest, networks: Sequence[str], groups: Sequence[str]) -> ToMake:
    """``networks`` and ``groups``: names at the destination. Pure. Raises InvalidInput for what nobody describes,
    Conflict for a name that several have there."""
    described = request.spec.configuration
    if isinstance(described, msgspec.UnsetType):
        described = CloudConfiguration()
    mapped = {**request.environment.get("network_map", {}), **request.network_map}
    made = {}
    for nic in request.spec.devices.nics:
        if mapped.get(nic.network_name) or mapped.get(nic.network_id):
            continue
        if nic.network_name in networks:
            _check_single("networks", nic.network_name, networks, "network_map")
            continue
        found, why = described_network(nic.network_name, nic.network_id, described.networks)
        if found is None:
            raise InvalidInput(
                f"network_map has no entry for the origin network {shown(nic.network_name)}, and it is not made: {why}"
            )
        made[found.name] = found
    wanted = {}
    if not request.environment.get("security_groups"):
        used = {name for nic in request.spec.devices.nics for name in nic.security_groups}
        for name in sorted(used):
            _check_single("security groups", name, groups, "security_groups")
        named = {rule.remote_group for one in described.security_groups for rule in one.rules}
        wanted = {
            one.name: one
            for one in described.security_groups
            if one.name in used | named and one.name not in groups and one.name != "default"
        }
        for rule in (rule for one in wanted.values() for rule in one.rules):
            _check_remote(rule, {*groups, *wanted})
    return ToMake(tuple(made.values()), tuple(wanted.values()))


def _check_single(what: str, name: str, names: Sequence[str], member: str) -> None:
    if names.count(name) > 1:
        raise Conflict(
            f"{names.count(name)} {what} of the destination are called {shown(name)}: give an id in {member}"
        )


def _check_remote(rule: SecurityRule, groups: Container[str]) -> None:
    if rule.remote_group and rule.remote_group not in groups:
        raise InvalidInput(
            f"a security rule of the origin names the group {shown(rule.remote_group)}, which nobody has: make the"
            " machine's groups at the destination and name them in security_groups"
        )


def description(tag: Tag, instance_id: str) -> str:
    """Of what is made for a machine."""
    return f"{tag} {instance_id}"


def owner(text: str) -> tuple[Tag, str] | None:
    """(tag, machine's id) that a description states, or None."""
    first, _, instance = text.partition(" ")
    tag = Tag.parse(first)
    return (tag, instance) if tag is not None and instance else None


def subnet_body(subnet: Subnet, network_id: str) -> dict[str, Any]:
    """As Neutron takes it."""
    body: dict[str, Any] = {
        "network_id": network_id,
        "name": subnet.name,
        "cidr": subnet.cidr,
        "ip_version": subnet.ip_version,
        "gateway_ip": subnet.gateway or None,
        "enable_dhcp": subnet.dhcp,
        "dns_nameservers": list(subnet.dns_servers),
        "host_routes": [{"destination": to, "nexthop": hop} for to, hop in subnet.routes],
    }
    if subnet.pools:
        body["allocation_pools"] = [{"start": first, "end": last} for first, last in subnet.pools]
    for key, value in (("ipv6_ra_mode", subnet.ipv6_ra_mode), ("ipv6_address_mode", subnet.ipv6_address_mode)):
        if value:
            body[key] = value
    return body


def rule_body(rule: SecurityRule, group_id: str, groups: Mapping[str, str]) -> dict[str, Any]:
    """``groups``: ids by name. Raises InvalidInput for a remote group that is unknown."""
    _check_remote(rule, groups)
    return {
        "security_group_id": group_id,
        "direction": rule.direction,
        "ethertype": rule.ethertype,
        "protocol": rule.protocol or None,
        "port_range_min": rule.port_first if rule.port_first >= 0 else None,
        "port_range_max": rule.port_last if rule.port_last >= 0 else None,
        "remote_ip_prefix": rule.remote_cidr or None,
        "remote_group_id": groups.get(rule.remote_group) if rule.remote_group else None,
    }


class MissingNetworks:
    """Makes and removes."""

    def __init__(self, session: Session, tell: Callable[..., None]) -> None:
        self._session, self._tell = session, tell

    async def planned(self, request: InstanceRequest) -> InstanceRequest:
        """The request as far as it can be checked before anything is made: without NICs on networks to come."""
        wanted, networks, _ = await self._missing(request)
        coming = {one.name for one in wanted.networks}
        nics = tuple(nic for nic in request.spec.devices.nics if nic.network_name not in coming)
        devices = msgspec.structs.replace(request.spec.devices, nics=nics)
        return _mapped(
            msgspec.structs.replace(request, spec=msgspec.structs.replace(request.spec, devices=devices)), networks
        )

    async def made(self, request: InstanceRequest) -> tuple[InstanceRequest, tuple[tuple[str, ...], ...]]:
        """(the request with every network mapped, ids of each NIC's security groups), after all of it was made."""
        wanted, networks, groups = await self._missing(request)
        for network in wanted.networks:
            networks[network.name] = await self._network(network, request)
        for group in wanted.groups:
            groups[group.name] = await self._group(group, request)
        for group in wanted.groups:  # rules name groups: those stand now
            await self._rules(group, groups)
        chosen = [] if request.environment.get("security_groups") else request.spec.devices.nics
        return _mapped(request, networks), tuple(
            tuple(groups[name] for name in nic.security_groups if name in groups) for nic in chosen
        )

    async def _missing(self, request: InstanceRequest) -> tuple[ToMake, dict[str, str], dict[str, str]]:
        """(what is to be made, ids of networks, ids of groups, by name)."""

        def look(cloud: Cloud) -> tuple[list[Document], list[Document]]:
            networks, groups = (_all(cloud, kind) for kind in ("networks", "security_groups"))
            return usable(networks, self._session.project_id), usable(groups, self._session.project_id)

        networks, groups = await self._session.read(look)
        return missing(request, _standing(networks, request), _standing(groups, request)), _ids(networks), _ids(groups)

    async def _network(self, network: Network, request: InstanceRequest) -> str:
        mark = description(request.tag, request.instance_id)
        body: dict[str, Any] = {"name": network.name, "description": mark}
        if not network.port_security:
            body["port_security_enabled"] = False
        identity = await self._once("networks", body, lambda one: one["name"] == network.name and _owned(one, request))
        for subnet in network.subnets:
            wanted = {**subnet_body(subnet, identity), "description": mark}
            place = (identity, subnet.cidr)
            await self._once("subnets", wanted, partial(_is_subnet, place=place))
        self._tell(f"network {shown(network.name)} is made as its origin has it")
        return identity

    async def _group(self, group: SecurityGroup, request: InstanceRequest) -> str:
        body = {"name": group.name, "description": description(request.tag, request.instance_id)}
        found = await self._once(
            "security_groups", body, lambda one: one["name"] == group.name and _owned(one, request)
        )
        self._tell(f"security group {shown(group.name)} is made as its origin has it")
        return found

    async def _rules(self, group: SecurityGroup, groups: Mapping[str, str]) -> None:
        """Neutron gives a new group rules of its own: those that the origin's has not go."""
        identity = groups[group.name]
        rows = await self._session.read(lambda cloud: _all(cloud, "security_groups"))
        others = [{**one, "security_group_rules": []} for one in rows if one["id"] != identity]
        (document,) = [one for one in rows if one["id"] == identity]
        standing: dict[SecurityRule, str] = {}
        for row in document["security_group_rules"]:
            alone = groups_of([{**document, "security_group_rules": [row]}, *others])
            standing |= {rule: str(row["id"]) for one in alone if one.id == identity for rule in one.rules}
        for rule in sorted(set(group.rules) - set(standing)):
            body = {"security_group_rule": rule_body(rule, identity, groups)}
            make = partial(ask, service="network", method="POST", path="/security-group-rules", body=body)
            try:
                await self._session.change(make)
            except Conflict:  # another attempt made it meanwhile
                continue
        for rule in set(standing) - set(group.rules):
            await remove(self._session, "network", f"/security-group-rules/{standing[rule]}")

    async def _once(self, kind: str, body: Mapping[str, Any], mine: Callable[[Document], bool]) -> str:
        def look(cloud: Cloud) -> str | None:
            found = sorted(str(one["id"]) for one in _all(cloud, kind) if mine(one))
            return found[0] if found else None

        path, key = f"/{kind.replace('_', '-')}", kind.removesuffix("s")

        def make(cloud: Cloud) -> str:
            return str(ask(cloud, "network", "POST", path, {key: body})[key]["id"])

        return await make_once(self._session, look, make)

    async def of_job(self, job_id: str) -> dict[str, Tag]:
        """Machines for which networks were made that nobody uses: {derived id: tag}."""
        return {instance: tag for _, _, (tag, instance) in await self._unused() if tag.job_id == job_id}

    async def remove_unused(self, jobs: set[str], instance_id: str) -> None:
        """What was made for these jobs or this machine and is used by nobody."""
        for kind, identity, (tag, instance) in await self._unused():
            if tag.job_id in jobs or instance == instance_id:
                try:
                    await remove(self._session, "network", f"/{kind.replace('_', '-')}/{identity}")
                except Conflict:  # used since; by a rule of another group, say
                    continue

    async def _unused(self) -> list[tuple[str, str, tuple[Tag, str]]]:
        def look(cloud: Cloud) -> list[tuple[str, str, tuple[Tag, str]]]:
            ours = [
                (kind, str(one["id"]), found)
                for kind in ("networks", "security_groups")
                for one in _all(cloud, kind)
                if (found := owner(str(one.get("description") or ""))) is not None
            ]
            if not ours:
                return []
            used: set[str] = set()
            for port in listed(cloud, "network", "/ports", "ports"):
                if not str(port.get("device_owner") or "").startswith("network:"):
                    used |= {str(port["network_id"]), *map(str, port.get("security_groups") or ())}
            return [one for one in ours if one[1] not in used]

        return await self._session.read(look)


def _all(cloud: Cloud, kind: str) -> list[Document]:
    return listed(cloud, "network", f"/{kind.replace('_', '-')}", kind)


def _is_subnet(one: Document, place: tuple[str, str]) -> bool:
    return (one["network_id"], one["cidr"]) == place


def _standing(rows: Sequence[Document], request: InstanceRequest) -> list[str]:
    """Names; not of what an interrupted attempt began, which is completed, so it counts as missing."""
    begun = {one["name"] for one in rows if _owned(one, request)}
    return [str(one["name"]) for one in rows if one["name"] not in begun]


def _ids(rows: Iterable[Document]) -> dict[str, str]:
    """By name; the first of several, in order of id."""
    return {str(one["name"]): str(one["id"]) for one in sorted(rows, key=lambda row: str(row["id"]), reverse=True)}


def _owned(one: Document, request: InstanceRequest) -> bool:
    """Made for this job, whichever of its machines needed it first."""
    found = owner(str(one.get("description") or ""))
    return found is not None and found[0].job_id == request.tag.job_id


def _mapped(request: InstanceRequest, networks: Mapping[str, str]) -> InstanceRequest:
    """With networks of the same name for those that the user did not map."""
    known = {**request.environment.get("network_map", {}), **request.network_map}
    same = {
        nic.network_name: networks[nic.network_name]
        for nic in request.spec.devices.nics
        if nic.network_name in networks and not (known.get(nic.network_name) or known.get(nic.network_id))
    }
    return msgspec.structs.replace(request, network_map={**request.network_map, **same})
