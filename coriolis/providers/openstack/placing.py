"""Looks up at a cloud what a target environment names, and makes of it a decision. Blocking reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from coriolis.convert.text import shown
from coriolis.errors import Conflict, InvalidInput
from coriolis.model.resource import InstanceRequest
from coriolis.model.storage_choice import storage_of
from coriolis.providers.openstack import flavors, marks
from coriolis.providers.openstack.cinder_volumes import gigabytes
from coriolis.providers.openstack.network_choice import Network, NicPlace, Subnet, place
from coriolis.providers.openstack.rest import ask_or_none, listed
from coriolis.providers.openstack.session import Cloud

MAX_LISTED = 12


class Server(msgspec.Struct, frozen=True):
    """``ours``: the derived id that it carries, "" for somebody else's."""

    id: str
    name: str
    status: str
    created: str
    ours: str = ""
    tag: str = ""
    fault: str = ""
    busy: str = ""


class Prepared(msgspec.Struct, frozen=True):
    """Where and as what a machine will run. ``pool``: id of the network of its floating IP."""

    flavor: flavors.Flavor
    nics: tuple[NicPlace, ...]
    groups: tuple[str, ...] = ()
    key: str = ""
    zone: str = ""
    group: str = ""
    pool: str = ""
    nic_groups: tuple[tuple[str, ...], ...] = ()
    """Of each NIC, where the origin's groups are taken over."""

    def groups_of(self, number: int) -> tuple[str, ...]:
        """Ids of the security groups of that NIC."""
        return self.nic_groups[number] if self.nic_groups else self.groups


def parse_server(document: Mapping[str, Any]) -> Server:
    """A server of Nova's list."""
    metadata = document.get("metadata") or {}
    fault = (document.get("fault") or {}).get("message", "")
    return Server(
        id=str(document["id"]),
        name=str(document["name"]),
        status=str(document["status"]),
        created=str(document.get("created") or ""),
        ours=str(metadata.get(marks.INSTANCE, "")),
        tag=str(metadata.get(marks.TAG, "")),
        fault=str(fault),
        busy=str(document.get("OS-EXT-STS:task_state") or ""),
    )


def servers(cloud: Cloud, **query: str) -> list[Server]:
    """Oldest first."""
    found = [parse_server(one) for one in listed(cloud, "compute", "/servers/detail", "servers", query)]
    return sorted(found, key=lambda one: (one.created, one.id))


def servers_of(cloud: Cloud, instance_id: str) -> list[Server]:
    """Those that are this machine: one, or for a moment two, oldest first."""
    return [one for one in servers(cloud, tags=marks.instance_mark(instance_id)) if one.ours == instance_id]


def check_name(cloud: Cloud, request: InstanceRequest) -> None:
    """Raises Conflict when a machine that is not of this job has the name."""
    for one in servers(cloud, name=f"^{re.escape(request.name)}$"):
        if one.name == request.name and (one.ours != request.instance_id or one.tag != str(request.tag)):
            raise Conflict(
                f"server {shown(one.name)} ({one.id}) exists and is not of this job: choose another instance name, or"
                " rename or delete that server"
            )


def prepare(cloud: Cloud, request: InstanceRequest, *, from_image: bool) -> Prepared:
    """Raises InvalidInput, Conflict that say what the environment should name."""
    check_name(cloud, request)
    environment, spec = request.environment, request.spec
    known = [flavors.parse(one) for one in listed(cloud, "compute", "/flavors/detail", "flavors")]
    image_gb = gigabytes(spec.devices.disks[0].size_bytes) if from_image else 0
    _check_types(cloud, request)
    networks = listed(cloud, "network", "/networks", "networks") if spec.devices.nics else []
    subnets = listed(cloud, "network", "/subnets", "subnets") if spec.devices.nics else []
    nics = place(
        request,
        [Network(one["id"], one.get("name") or "", one.get("port_security_enabled") is not False) for one in networks],
        [Subnet(one["id"], one.get("name") or "", one["network_id"], one["cidr"]) for one in subnets],
    )
    zone = str(environment.get("availability_zone", ""))
    return Prepared(
        flavor=flavors.choose(known, str(environment.get("flavor_name", "")), spec.num_cpu, spec.memory_mb, image_gb),
        nics=nics,
        groups=_groups(cloud, environment.get("security_groups", [])),
        key=_key(cloud, str(environment.get("keypair_name", ""))),
        zone=_zone(cloud, zone) if zone else "",
        group=_server_group(cloud, str(environment.get("server_group", ""))),
        pool=_pool(cloud, str(environment.get("floating_ip_pool", "")), bool(nics)),
    )


def _check_types(cloud: Cloud, request: InstanceRequest) -> None:
    wanted = {
        storage_of(disk, request.environment) or str(request.environment.get("volume_type", ""))
        for disk in request.spec.devices.disks
    } - {""}
    if wanted:
        known = listed(cloud, "block_storage", "/types", "volume_types")
        for one in sorted(wanted):
            one_of("volume type", one, known)


def one_of(what: str, wanted: str, things: Sequence[Mapping[str, Any]]) -> str:
    """The id of the thing with that id or name. Raises InvalidInput that lists them, Conflict."""
    found = [one for one in things if one["id"] == wanted] or [one for one in things if one.get("name") == wanted]
    if len(found) > 1:
        raise Conflict(f"{what}: {len(found)} are called {shown(wanted)}; give the id")
    if not found:
        names = sorted(shown(one.get("name") or one["id"]) for one in things)
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        raise InvalidInput(
            f"{what}: there is no {shown(wanted)}; known: {', '.join(names[:MAX_LISTED]) or 'none'}{more}"
        )
    return str(found[0]["id"])


def _groups(cloud: Cloud, wanted: Sequence[str]) -> tuple[str, ...]:
    if not wanted:
        return ()
    known = listed(cloud, "network", "/security-groups", "security_groups", {"fields": ["id", "name"]})
    return tuple(one_of("security_groups", one, known) for one in wanted)


def _key(cloud: Cloud, name: str) -> str:
    if name and ask_or_none(cloud, "compute", f"/os-keypairs/{quote(name, safe='')}") is None:
        raise InvalidInput(f"keypair_name: the user has no key pair {shown(name)}")
    return name


def _zone(cloud: Cloud, name: str) -> str:
    found = ask_or_none(cloud, "compute", "/os-availability-zone")
    known = sorted(one["zoneName"] for one in found["availabilityZoneInfo"] if one["zoneState"]["available"])
    if name not in known:
        raise InvalidInput(f"availability_zone: there is no {shown(name)}; known: {', '.join(map(shown, known))}")
    return name


def _server_group(cloud: Cloud, wanted: str) -> str:
    if not wanted:
        return ""
    found = ask_or_none(cloud, "compute", "/os-server-groups")
    return one_of("server_group", wanted, found["server_groups"] if found else [])


def _pool(cloud: Cloud, wanted: str, has_nics: bool) -> str:
    if not wanted:
        return ""
    if not has_nics:
        raise InvalidInput("floating_ip_pool: the machine has no NIC that an address could lead to")
    known = listed(cloud, "network", "/networks", "networks", {"router:external": "true"})
    return one_of("floating_ip_pool", wanted, known)
