"""Servers, networks, volume types and flavors of a project. Raises what ``Session.read`` does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import msgspec
from openstack import exceptions as sdk

from coriolis.errors import NotFound
from coriolis.ids import is_id
from coriolis.model.finding import Finding
from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration
from coriolis.model.network_mapping import needed
from coriolis.providers.base import Named, Page
from coriolis.providers.openstack.ceph_cluster import CephCluster
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.configuration import groups_of, networks_of, types_of, usable
from coriolis.providers.openstack.findings import Quota, findings, quota_of
from coriolis.providers.openstack.machine_spec import (
    GIB,
    Document,
    Surrounding,
    choose,
    image_of,
    name_of,
    spec_of,
    volumes_of,
)
from coriolis.providers.openstack.rest import ask, ask_or_none, goes_on, listed
from coriolis.providers.openstack.session import Cloud, Session

SERVERS_PER_CALL = 250
"""A server takes about 3 KB in the answer, of which 4 MiB are read."""
ONE_BY_ONE = 20
"""More images than this are listed instead of asked for one by one."""
LIST_TIMEOUT_S = 600.0
SORTED = {"sort_key": "uuid", "sort_dir": "asc"}


class OpenstackInventory:
    """Meets ``Inventory``, ``ExaminesInstances``; ids are the services' own."""

    def __init__(self, session: Session, ceph: CephCluster | None = None) -> None:
        self._session, self._ceph = session, ceph

    async def list_instances(self, page: Page) -> list[MachineSpec]:
        """In order of id: one call for each 250 servers, and one for each 500 of the project's volumes and ports."""
        return await self._session.read(lambda cloud: _list(cloud, page), LIST_TIMEOUT_S)

    async def get_instance(self, instance: str) -> MachineSpec:
        """By name or id, with the configuration that the server uses. Raises NotFound, Conflict that lists the ids."""

        def look(cloud: Cloud) -> MachineSpec:
            server = server_of(cloud, instance)
            spec = spec_of(server, surrounding(cloud, [server]))
            return msgspec.structs.replace(spec, configuration=needed([spec], self._configuration(cloud)))

        return await self._session.read(look)

    async def examine(self, instance_id: str) -> list[Finding]:
        def look(cloud: Cloud) -> tuple[Document, Surrounding, Quota]:
            server = server_by_id(cloud, instance_id)
            return server, surrounding(cloud, [server]), quota_of(_limits(cloud))

        server, around, quota = await self._session.read(look)
        obstacles = None
        if self._ceph is not None:
            sizes = {one: int(around.volumes[one]["size"]) * GIB for one in volumes_of(server) if one in around.volumes}
            obstacles = {one: await self._ceph.obstacle(one, size) for one, size in sizes.items()}
        return findings(server, around, quota, obstacles)

    async def list_networks(self) -> list[Named]:
        return await self._session.read(lambda cloud: _sorted(listed(cloud, "network", "/networks", "networks")))

    async def list_storage(self) -> list[Named]:
        """Volume types."""
        return await self._session.read(lambda cloud: _sorted(_types(cloud)))

    async def list_flavors(self) -> list[Named]:
        return await self._session.read(lambda cloud: _sorted(listed(cloud, "compute", "/flavors", "flavors")))

    async def configuration(self) -> CloudConfiguration:
        """Networks that the project can use, its security groups, volume types."""
        return await self._session.read(self._configuration)

    def _configuration(self, cloud: Cloud) -> CloudConfiguration:
        project = self._session.project_id
        networks = usable(listed(cloud, "network", "/networks", "networks"), project)
        subnets = listed(cloud, "network", "/subnets", "subnets")
        return CloudConfiguration(
            networks_of(networks, subnets, project),
            groups_of(usable(_groups(cloud), project)),
            types_of(_types(cloud)),
        )


def server_of(cloud: Cloud, instance: str) -> Document:
    """The server that ``instance``, a name or id, names. Blocking. Raises NotFound, Conflict with the ids."""
    if is_id(instance):
        found = ask_or_none(cloud, "compute", f"/servers/{instance}")
        if found is not None:
            server: Document = found["server"]
            return server
    # Nova's filter is a regular expression over the database: an escaped name is not portable, so all names are read
    named = listed(cloud, "compute", "/servers", "servers", SORTED)
    chosen = choose(named, instance)
    return dict(ask(cloud, "compute", "GET", f"/servers/{chosen}")["server"])


def server_by_id(cloud: Cloud, server_id: str) -> Document:
    """Blocking. Raises NotFound."""
    found = ask_or_none(cloud, "compute", f"/servers/{quote(server_id, safe='')}")
    if found is None:
        raise NotFound(f"there is no server {printable(server_id, 100)} in the project")
    server: Document = found["server"]
    return server


def surrounding(cloud: Cloud, servers: list[Document], *, everything: bool = False) -> Surrounding:
    """What the servers refer to; ``everything``: they are many, so list instead of asking for each. Blocking."""
    ids = {one for server in servers for one in volumes_of(server)}
    if everything:
        volumes = {str(one["id"]): one for one in listed(cloud, "block_storage", "/volumes/detail", "volumes")}
        ports = listed(cloud, "network", "/ports", "ports")
    else:
        found = (ask_or_none(cloud, "block_storage", f"/volumes/{one}") for one in sorted(ids))
        volumes = {str(one["volume"]["id"]): one["volume"] for one in found if one is not None}
        ports = [
            one
            for server in servers
            for one in listed(cloud, "network", "/ports", "ports", {"device_id": str(server["id"])})
        ]
    of_server: dict[str, list[Document]] = defaultdict(list)
    for port in ports:
        of_server[str(port.get("device_id"))].append(port)
    return Surrounding(
        volumes=volumes,
        images=_images(cloud, {image_of(server) for server in servers} - {""}),
        networks={str(one["id"]): name_of(one) for one in listed(cloud, "network", "/networks", "networks")},
        groups={str(one["id"]): name_of(one) for one in _groups(cloud)},
        ports=of_server,
    )


def _list(cloud: Cloud, page: Page) -> list[MachineSpec]:
    servers = _servers_after(cloud, page)
    around = surrounding(cloud, servers, everything=len(servers) > 1) if servers else Surrounding()
    return [spec_of(server, around) for server in servers]


def _servers_after(cloud: Cloud, page: Page) -> list[Document]:
    found: list[Document] = []
    marker = page.marker
    while len(found) < page.limit:
        wanted = min(page.limit - len(found), SERVERS_PER_CALL)
        params = {**SORTED, "limit": wanted, **({"marker": marker} if marker else {})}
        try:
            document = ask(cloud, "compute", "GET", "/servers/detail", params=params)
        except sdk.BadRequestException:
            if not marker:
                raise
            # the server that ended the last page is gone: go on after the last one that is still there
            before = [str(one["id"]) for one in listed(cloud, "compute", "/servers", "servers", SORTED)]
            marker = max((one for one in before if one < marker), default="")
            continue
        more = document["servers"]
        found += more
        if not goes_on(document, more, wanted):
            break
        marker = str(more[-1]["id"])
    return found


def _images(cloud: Cloud, ids: Iterable[str]) -> dict[str, Document]:
    wanted = set(ids)
    if len(wanted) > ONE_BY_ONE:
        return {str(one["id"]): one for one in listed(cloud, "image", "/images", "images") if one["id"] in wanted}
    found = ((one, ask_or_none(cloud, "image", f"/images/{one}")) for one in sorted(wanted))
    return {one: image for one, image in found if image is not None}


def _groups(cloud: Cloud) -> list[Any]:
    return listed(cloud, "network", "/security-groups", "security_groups")


def _types(cloud: Cloud) -> list[Any]:
    return listed(cloud, "block_storage", "/types", "volume_types")


def _limits(cloud: Cloud) -> dict[str, Any]:
    found: dict[str, Any] = ask(cloud, "block_storage", "GET", "/limits")["limits"]["absolute"]
    return found


def _sorted(things: Iterable[Document]) -> list[Named]:
    return sorted((Named(str(one["id"]), name_of(one)) for one in things), key=lambda one: (one.name, one.id))
