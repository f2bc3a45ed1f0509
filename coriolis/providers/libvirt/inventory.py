"""Domains, networks and storage pools of one libvirt host."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from typing import Any

import libvirt
import msgspec

from coriolis.errors import CoriolisError, NotFound, Unsupported
from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration
from coriolis.providers.base import Named, Page
from coriolis.providers.libvirt.domain_xml import Domain, DomainDisk, parse_domain, to_spec
from coriolis.providers.libvirt.host_configuration import network_of, pool_of
from coriolis.providers.libvirt.session import Session, get_domain

_log = logging.getLogger(__name__)

DIRECTORY_POOLS = frozenset({"dir", "fs", "netfs"})
"""Pool types whose volumes are files under one path."""
READABLE_KINDS = frozenset({"file", "block", "volume"})

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "stopped",
    libvirt.VIR_DOMAIN_CRASHED: "stopped",
}


def power_state_of(domain: Any) -> str:
    """``running``, ``paused``, ``stopped`` or ``unknown``."""
    return _STATES.get(domain.state()[0], "unknown")


def describe(connection: Any, domain: Any) -> Domain:
    """The domain as it is now, with pool volumes resolved to paths."""
    parsed = parse_domain(domain.XMLDesc(0))
    return msgspec.structs.replace(parsed, disks=tuple(_resolved(connection, disk) for disk in parsed.disks))


def _resolved(connection: Any, disk: DomainDisk) -> DomainDisk:
    if disk.kind != "volume" or disk.source:
        return disk
    volume = connection.storagePoolLookupByName(disk.pool).storageVolLookupByName(disk.volume)
    return msgspec.structs.replace(disk, source=volume.path())


def check_readable(domain: Domain) -> None:
    """Raise Unsupported for disks this provider cannot read, with what to do."""
    for disk in domain.disks:
        if disk.kind not in READABLE_KINDS:
            raise Unsupported(f"disk {disk.target} of {domain.name} is of type {disk.kind!r}; file or block is needed")
        if disk.has_backing:
            raise Unsupported(
                f"disk {disk.target} of {domain.name} has a backing chain: flatten it with"
                f" virsh blockpull {domain.name} {disk.target} --wait"
            )
        if not disk.source:
            raise NotFound(f"disk {disk.target} of {domain.name} has no source")


def disk_sizes(domain: Any, parsed: Domain) -> dict[str, int]:
    """Virtual size in bytes of each disk, by target."""
    return {disk.target: int(domain.blockInfo(disk.target)[0]) for disk in parsed.disks}


def pool_details(pool: Any) -> tuple[str, str]:
    """(type, path) of a storage pool."""
    root = ET.fromstring(pool.XMLDesc(0))
    return root.get("type", ""), root.findtext("target/path", "")


class LibvirtInventory:
    """Meets ``Inventory``. Instances are found by name or UUID: both are unique."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list_instances(self, page: Page) -> list[MachineSpec]:
        """In order of UUID. Domains that cannot be read are left out with a warning; ``get_instance`` says why."""
        domains = await self._session.run(lambda c: sorted(d.UUIDString() for d in c.listAllDomains()))
        found = []
        for uuid in [u for u in domains if u > page.marker][: page.limit]:
            try:
                found.append(await self.get_instance(uuid))
            except CoriolisError as error:
                _log.warning("domain %s is left out of the listing: %s", uuid, error)
        return found

    async def get_instance(self, instance: str) -> MachineSpec:
        return await self._session.run(lambda c: _spec(c, instance))

    async def list_networks(self) -> list[Named]:
        return await self._session.run(lambda c: sorted_names(n.name() for n in c.listAllNetworks()))

    async def list_storage(self) -> list[Named]:
        """Pools that can take volumes: directories on the host."""
        return await self._session.run(
            lambda c: sorted_names(p.name() for p in c.listAllStoragePools() if pool_details(p)[0] in DIRECTORY_POOLS)
        )

    async def configuration(self) -> CloudConfiguration:
        """Networks with their subnets, and the pools of ``list_storage`` with their sizes."""
        return await self._session.run(_configuration)

    async def list_flavors(self) -> list[Named]:
        return []


def sorted_names(names: Any) -> list[Named]:
    """Names that are their own ids."""
    return [Named(name, name) for name in sorted(names)]


def _configuration(connection: Any) -> CloudConfiguration:
    networks = [network_of(one.XMLDesc(0)) for one in connection.listAllNetworks()]
    pools = [pool_of(one.XMLDesc(0), one.info()) for one in connection.listAllStoragePools()]
    return CloudConfiguration(
        tuple(sorted(networks, key=lambda one: one.name)),
        (),
        tuple(sorted((one for one in pools if one.kind in DIRECTORY_POOLS), key=lambda one: one.name)),
    )


def _spec(connection: Any, instance: str) -> MachineSpec:
    domain = get_domain(connection, instance)
    parsed = describe(connection, domain)
    return to_spec(parsed, disk_sizes(domain, parsed), power_state_of(domain))
