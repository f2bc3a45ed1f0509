"""Meets ``InstanceTarget``: defines domains, stopped, and starts or removes them by UUID."""

from __future__ import annotations

import os
from typing import Any

import libvirt
import msgspec

from coriolis.errors import Conflict, InvalidInput, NotFound
from coriolis.ids import is_id
from coriolis.model.resource import BootProof, Instance, InstanceRequest, ResourceKind, Tag, TaggedResource
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.sidecar import check_name
from coriolis.providers.libvirt import schemas
from coriolis.providers.libvirt.boot_proof import proof_name, prove
from coriolis.providers.libvirt.domain_build import Shape, VolumeFile, build_domain, network_of
from coriolis.providers.libvirt.domain_type import decide
from coriolis.providers.libvirt.domain_xml import parse_domain
from coriolis.providers.libvirt.power import start_now, stop_now
from coriolis.providers.libvirt.session import Session, find_domain
from coriolis.providers.libvirt.volumes import LibvirtVolumes, open_pool
from coriolis.providers.schema_check import check_document

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


class LibvirtInstances:
    """Instance ids are domain UUIDs, given by the caller."""

    def __init__(self, session: Session, volumes: LibvirtVolumes, default_pool: str, console_dir: str) -> None:
        self._session, self._volumes = session, volumes
        self._default_pool, self._console_dir = default_pool, console_dir

    async def validate(self, request: InstanceRequest) -> None:
        self._check_request(request)
        await self._session.run(lambda c: self._check_host(c, request))

    def _check_request(self, request: InstanceRequest) -> None:
        check_document(request.environment, schemas.DESTINATION_ENVIRONMENT, "target_environment")
        check_name(request.name, "instance name")
        if not is_id(request.instance_id):
            raise InvalidInput(f"instance id {request.instance_id!r} is not a UUID")
        if request.volumes and len(request.volumes) != len(request.spec.devices.disks):
            raise InvalidInput(f"{len(request.volumes)} volumes for {len(request.spec.devices.disks)} disks")
        if request.environment.get("machine") == "pc" and request.spec.firmware_type == "EFI":
            raise InvalidInput("machine pc cannot run EFI firmware here: use q35")

    def _check_host(self, connection: Any, request: InstanceRequest) -> None:
        open_pool(connection, self._pool_of(request))
        known = {network.name() for network in connection.listAllNetworks()}
        for nic in request.spec.devices.nics:
            kind, name = network_of(nic, _network_map(request))
            if kind == "network" and name not in known:
                have = ", ".join(sorted(known)) or "none"
                raise InvalidInput(f"network_map names the network {name!r}, which does not exist; known: {have}")
        self._existing(connection, request)

    def _pool_of(self, request: InstanceRequest) -> str:
        return str(request.environment.get("storage_pool", "") or self._default_pool)

    def _existing(self, connection: Any, request: InstanceRequest) -> Any:
        """Our domain from an earlier call, or None. Raises Conflict for somebody else's."""
        for domain in (find_domain(connection, request.instance_id), find_domain(connection, request.name)):
            if domain is None:
                continue
            parsed = parse_domain(domain.XMLDesc(0))
            if parsed.uuid == request.instance_id and parsed.tag == str(request.tag):
                return domain
            raise Conflict(
                f"domain {parsed.name} ({parsed.uuid}) exists and is not of this job: choose another instance name,"
                " or rename or undefine that domain"
            )
        return None

    async def create_instance(self, request: InstanceRequest) -> Instance:
        self._check_request(request)
        found = [await self._volumes.require(volume.id) for volume in request.volumes]
        files = tuple(VolumeFile(volume.path, volume.record.format) for volume in found)
        return await self._session.run(lambda c: self._define(c, request, files))

    def _define(self, connection: Any, request: InstanceRequest, files: tuple[VolumeFile, ...]) -> Instance:
        self._check_host(connection, request)
        domain = self._existing(connection, request)
        if domain is None:
            xml = build_domain(request, files, _network_map(request), self._shape(connection, request))
            domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        return Instance(request.instance_id, request.name, bool(domain.isActive()))

    def _shape(self, connection: Any, request: InstanceRequest) -> Shape:
        environment = request.environment
        _, pool_path = open_pool(connection, self._pool_of(request))
        try:
            os.makedirs(self._console_dir, mode=0o755, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, f"create console_dir {self._console_dir}") from error
        return Shape(
            domain_type=decide(connection, environment.get("domain_type", "auto"), pool_path),
            machine=environment.get("machine", "q35"),
            disk_bus=environment.get("disk_bus", "virtio"),
            nic_model=environment.get("nic_model", "virtio"),
            console_log=os.path.join(self._console_dir, f"{request.name}-serial0.log"),
        )

    async def prove_boot(self, request: InstanceRequest, timeout_s: float) -> BootProof:
        """Meets ``ProvesBoot``."""
        self._check_request(request)
        found = [await self._volumes.require(volume.id) for volume in request.volumes]
        files = tuple(VolumeFile(volume.path, volume.record.format) for volume in found)
        shape = await self._session.run(lambda c: self._shape(c, request))
        log = os.path.join(self._console_dir, f"{proof_name(request)}.log")
        return await prove(self._session, request, files, msgspec.structs.replace(shape, console_log=log), timeout_s)

    async def start(self, instance_id: str) -> None:
        def start(connection: Any) -> None:
            domain = find_domain(connection, instance_id)
            if domain is None:
                raise NotFound(f"there is no domain {instance_id}")
            start_now(domain)

        await self._session.run(start)

    async def delete_instance(self, instance_id: str) -> None:
        def delete(connection: Any) -> None:
            domain = find_domain(connection, instance_id)
            if domain is None:
                return
            if Tag.parse(parse_domain(domain.XMLDesc(0)).tag) is None:
                raise Conflict(f"domain {instance_id} was not made by Coriolis: it is left alone")
            stop_now(domain)
            domain.undefineFlags(_UNDEFINE)

        await self._session.run(delete)

    async def find_tagged(self, job_id: str) -> list[TaggedResource]:
        def search(connection: Any) -> list[TaggedResource]:
            found = []
            for domain in connection.listAllDomains():
                parsed = parse_domain(domain.XMLDesc(0))
                tag = Tag.parse(parsed.tag)
                if tag is not None and tag.job_id == job_id:
                    found.append(TaggedResource(ResourceKind.INSTANCE, parsed.uuid, parsed.name, tag))
            return found

        return await self._session.run(search) + await self._volumes.find(job_id)


def _network_map(request: InstanceRequest) -> dict[str, str]:
    return {**request.environment.get("network_map", {}), **request.network_map}
