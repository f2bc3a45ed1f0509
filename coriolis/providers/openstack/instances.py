"""Meets ``InstanceTarget``. Nova runs what it creates, so a machine is reserved, and its server made at the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from coriolis.convert.text import shown
from coriolis.errors import (
    Conflict,
    CoriolisError,
    Denied,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    TimedOut,
    Unavailable,
)
from coriolis.ids import is_id
from coriolis.model.resource import Instance, InstanceRequest, ResourceKind, Tag, TaggedResource
from coriolis.providers.openstack import marks
from coriolis.providers.openstack.cinder_volumes import gigabytes
from coriolis.providers.openstack.destination_schema import DESTINATION_ENVIRONMENT
from coriolis.providers.openstack.guest_properties import guest_properties
from coriolis.providers.openstack.images import Images
from coriolis.providers.openstack.missing_networks import MissingNetworks, is_asked_for
from coriolis.providers.openstack.placing import (
    Prepared,
    Server,
    check_name,
    parse_server,
    prepare,
    servers,
    servers_of,
)
from coriolis.providers.openstack.ports import Ports
from coriolis.providers.openstack.quotas import check_fits, port_limits, server_limits, volume_limits
from coriolis.providers.openstack.reservation import Reservation, as_template, from_image
from coriolis.providers.openstack.rest import ask, ask_or_none, remove
from coriolis.providers.openstack.server_plan import ServerPlan, server_body
from coriolis.providers.openstack.session import Cloud, Session
from coriolis.providers.openstack.volumes import OpenstackVolumes
from coriolis.providers.schema_check import check_document

START_ATTEMPTS = 3
"""A server that goes to ERROR is removed and made anew, this often in all."""
BUILD_TIMEOUT_S = 1800.0
GONE_TIMEOUT_S = 600.0
SETTLE_S = 2.0
MAX_NAME = 255
NO_HOST = "no valid host"


class OpenstackInstances:
    """Instance ids are given by the caller and derived; Nova's own are in events."""

    def __init__(self, session: Session, volumes: OpenstackVolumes, tell: Callable[..., None]) -> None:
        self._session, self._volumes, self._tell = session, volumes, tell
        self._ports = Ports(session, tell)
        self._reserved = Reservation(session, volumes, Images(session), self._ports)
        self._networks = MissingNetworks(session, tell)

    async def validate(self, request: InstanceRequest) -> None:
        """Names, places, quotas and the way of the disks."""
        check_request(request)
        self._volumes.path_of(request.environment)
        known = await self._networks.planned(request) if is_asked_for(request) else request
        prepared = await self._prepare(known)
        if not await self._volumes.find(request.tag.job_id):
            await self._session.read(lambda cloud: _check_quotas(cloud, request, prepared, self._session.project_id))

    async def _prepare(self, request: InstanceRequest) -> Prepared:
        image = from_image(request) and not as_template(request)
        return await self._session.read(lambda cloud: prepare(cloud, request, from_image=image))

    async def create_instance(self, request: InstanceRequest) -> Instance:
        """Reserves the machine; a repeat after its start finds the server, and needs no volume any more."""
        check_request(request)
        await self._session.read(lambda cloud: check_name(cloud, request))
        standing = await self._session.read(lambda cloud: servers_of(cloud, request.instance_id))
        if standing:
            return _instance(request, standing[0].status == "ACTIVE")
        if not request.volumes:
            raise InvalidInput("a machine without disks cannot be made in OpenStack: there is nothing to start from")
        request, prepared = await self._placed(request)
        await self._reserved.make(request, prepared, self._tell)
        return _instance(request, False)

    async def _placed(self, request: InstanceRequest) -> tuple[InstanceRequest, Prepared]:
        """With the networks that are missing made, where that is asked for."""
        groups: tuple[tuple[str, ...], ...] = ()
        if is_asked_for(request) and not as_template(request):
            request, groups = await self._networks.made(request)
        return request, msgspec.structs.replace(await self._prepare(request), nic_groups=groups)

    async def reserve_nics(self, request: InstanceRequest) -> tuple[str, ...]:
        """Makes the ports, since only a port has its MAC for sure. A template has none: the origin's are told."""
        check_request(request)
        if as_template(request):
            return tuple((nic.mac_address or "").lower() for nic in request.spec.devices.nics)
        request, prepared = await self._placed(request)
        ports = await self._ports.reserve(request, prepared)
        return tuple(str(port["mac_address"]).lower() for port in ports)

    async def start(self, instance_id: str) -> None:
        """Make the server, or start the one that stands. Two that call at once get one: Cinder gives the root volume,
        and Neutron each port, to the first server only. A template is not started; an event says so."""
        for left in range(START_ATTEMPTS - 1, -1, -1):
            server = await self._server(instance_id)
            if server is None:
                return  # a template
            ended = await self._until_settled(server.id)
            if ended is None:  # removed meanwhile by another caller of ours
                continue
            if ended.status == "ERROR":
                await self._failed(ended, left)
                continue
            if ended.status != "ACTIVE":
                await self._power_on(ended)
            self._tell(f"server {shown(ended.name)} ({ended.id}) runs")
            await self._reserved.remove_unplanned(instance_id)
            return
        raise Unavailable(f"the server of {instance_id} was removed {START_ATTEMPTS} times while it was made")

    async def _server(self, instance_id: str) -> Server | None:
        """The machine's one server, made when there is none; None for a template. Raises NotFound."""
        standing = await self._session.read(lambda cloud: servers_of(cloud, instance_id))
        if standing:
            return standing[0]
        plan = await self._reserved.find(instance_id) if is_id(instance_id) else None
        if plan is None:
            raise NotFound(f"there is no machine {shown(instance_id)} at {self._session.where}")
        if plan.template:
            self._tell(f"{shown(plan.name)} is a template, image {plan.image}: it is not started")
            return None
        made = ""
        try:
            body = server_body(plan)
            answer = await self._session.change(lambda cloud: ask(cloud, "compute", "POST", "/servers", body))
            made = str(answer["server"]["id"])
        except (Conflict, InvalidInput, Denied, Unavailable, TimedOut) as refused:
            # the answer was lost, or another caller's server has the volume or a port
            await asyncio.sleep(SETTLE_S)
            standing = await self._session.read(lambda cloud: servers_of(cloud, instance_id))
            if not standing:
                raise _refused(plan, refused) from refused
            return standing[0]
        standing = await self._session.read(lambda cloud: servers_of(cloud, instance_id))
        if standing and standing[0].id != made:
            await remove_server(self._session, made)
        return standing[0] if standing else Server(made, plan.name, "BUILD", "")

    async def _until_settled(self, server_id: str) -> Server | None:
        def look(cloud: Cloud) -> tuple[Server | None] | None:
            return _settled(cloud, server_id)

        return (await self._session.until(look, BUILD_TIMEOUT_S, f"server {server_id} built"))[0]

    async def _failed(self, server: Server, left: int) -> None:
        """Remove a server in ERROR; raise when there was enough of it."""
        fault = shown(server.fault) or "Nova gives no reason"
        await remove_server(self._session, server.id)
        text = f"Nova could not run {shown(server.name)}: {fault}"
        if left:
            self._tell(f"{text}; the server is removed and made anew", "WARNING")
            return
        if NO_HOST in server.fault.lower():
            raise Unavailable(
                f"{text}: no host of this cloud has room for it now, or offers what its flavor and image ask"
            )
        raise Conflict(f"{text}; tried {START_ATTEMPTS} times, nothing of the server is left")

    async def _power_on(self, server: Server) -> None:
        """From whatever state somebody brought it to."""
        if server.status != "SHUTOFF":
            raise Conflict(f"server {shown(server.name)} is {shown(server.status)}: it is left alone")
        path = f"/servers/{server.id}/action"
        await self._session.change(lambda cloud: ask(cloud, "compute", "POST", path, {"os-start": None}))

        def runs(cloud: Cloud) -> bool | None:
            found = _settled(cloud, server.id)
            return True if found and found[0] is not None and found[0].status == "ACTIVE" else None

        await self._session.until(runs, BUILD_TIMEOUT_S, f"the start of server {server.id}")

    async def delete_instance(self, instance_id: str) -> None:
        """The plan first, so that nobody starts it again; then the server, its ports, images and copies."""
        if not is_id(instance_id):
            return
        jobs = await self._reserved.jobs_of(instance_id)
        await self._reserved.cancel(instance_id)
        for server in await self._session.read(lambda cloud: servers_of(cloud, instance_id)):
            if Tag.parse(server.tag) is None:
                raise Conflict(f"server {shown(server.name)} was not made by Coriolis: it is left alone")
            await remove_server(self._session, server.id)
        await self._reserved.remove(instance_id)
        await self._networks.remove_unused(jobs, instance_id)

    async def find_tagged(self, job_id: str) -> list[TaggedResource]:
        """A machine is one resource, whatever of it stands: server, ports, images, plan."""
        found = {**await self._networks.of_job(job_id), **await self._reserved.of_job(job_id)}
        names: dict[str, str] = {}
        for one in await self._session.read(lambda cloud: servers(cloud, tags=marks.job_mark(job_id))):
            tag = Tag.parse(one.tag)
            if tag is not None and tag.job_id == job_id and one.ours:
                found[one.ours], names[one.ours] = tag, one.name
        machines = [
            TaggedResource(ResourceKind.INSTANCE, identity, names.get(identity, identity), tag)
            for identity, tag in found.items()
        ]
        return machines + await self._volumes.find(job_id)


async def remove_server(session: Session, server_id: str) -> None:
    """At once, also in a cloud that keeps deleted servers for a while (Nova's reclaim_instance_interval): such a one
    would keep its volumes and ports, and could be restored beside its successor."""
    path = f"/servers/{server_id}"

    def ended(cloud: Cloud) -> str | None:
        document = ask_or_none(cloud, "compute", path)
        status = "DELETED" if document is None else str(document["server"]["status"])
        return status if status in ("DELETED", "SOFT_DELETED") else None

    await remove(session, "compute", path)
    if await session.until(ended, GONE_TIMEOUT_S, f"the end of server {server_id}") == "SOFT_DELETED":
        try:
            await session.change(lambda cloud: ask(cloud, "compute", "POST", f"{path}/action", {"forceDelete": None}))
        except NotFound:
            return
        await session.until(
            lambda cloud: True if ask_or_none(cloud, "compute", path) is None else None,
            GONE_TIMEOUT_S,
            f"the end of server {server_id}",
        )


def check_request(request: InstanceRequest) -> None:
    """What can be said without the cloud. Raises InvalidInput."""
    check_document(request.environment, DESTINATION_ENVIRONMENT, "target_environment")
    if not request.name or len(request.name) > MAX_NAME or not request.name.isprintable():
        raise InvalidInput(f"instance name {shown(request.name)} must be 1 to {MAX_NAME} printable characters")
    if not is_id(request.instance_id):
        raise InvalidInput(f"instance id {request.instance_id!r} is not a UUID")
    disks = request.spec.devices.disks
    if not disks:
        raise InvalidInput("a machine without disks cannot be made in OpenStack: there is nothing to start from")
    if request.volumes and len(request.volumes) != len(disks):
        raise InvalidInput(f"{len(request.volumes)} volumes for {len(disks)} disks")
    guest_properties(request.spec, request.environment)


def needs(request: InstanceRequest, vcpus: int, ram_mb: int) -> dict[str, int]:
    """What a machine takes of the project's quotas. Pure."""
    sizes = [gigabytes(disk.size_bytes) for disk in request.spec.devices.disks]
    disks = {"volumes": len(sizes), "gigabytes": sum(sizes)}
    if as_template(request):
        return disks
    return {**disks, "instances": 1, "cores": vcpus, "memory": ram_mb, "ports": len(request.spec.devices.nics)}


def _instance(request: InstanceRequest, running: bool) -> Instance:
    """Staged disks are images or volumes now; a volume that became an image is none any more."""
    unneeded = [volume.id for volume in request.volumes if not is_id(volume.id)]
    if from_image(request):
        unneeded += [volume.id for volume in request.volumes[:1] if is_id(volume.id)]
    return Instance(request.instance_id, request.name, running, tuple(unneeded))


def _check_quotas(cloud: Cloud, request: InstanceRequest, prepared: Prepared, project_id: str) -> None:
    limits = {**volume_limits(cloud), **server_limits(cloud), **port_limits(cloud, project_id)}
    check_fits(limits, needs(request, prepared.flavor.vcpus, prepared.flavor.ram_mb))


def _settled(cloud: Cloud, server_id: str) -> tuple[Server | None] | None:
    """The server when Nova does nothing with it, (None,) when it is gone, None while it is being made."""
    document: Mapping[str, Any] | None = ask_or_none(cloud, "compute", f"/servers/{server_id}")
    if document is None or document["server"]["status"] in ("DELETED", "SOFT_DELETED"):
        return (None,)
    found = parse_server(document["server"])
    return (found,) if found.status == "ERROR" or (found.status != "BUILD" and not found.busy) else None


def _refused(plan: ServerPlan, refused: CoriolisError) -> CoriolisError:
    """What Nova said, with the machine's name; a quota that filled up since validation stays one."""
    if isinstance(refused, (Unavailable, TimedOut, QuotaExceeded)):
        return refused
    return type(refused)(f"Nova refuses to make {shown(plan.name)}: {refused.message}")
