"""Provider type ``libvirt``: KVM/QEMU hosts, as live origin and as destination. libvirt loads when connected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from coriolis.errors import Unsupported
from coriolis.providers.base import Connection, JsonSchema
from coriolis.providers.capabilities import Capabilities
from coriolis.providers.libvirt import schemas
from coriolis.providers.schema_check import check_document
from coriolis.providers.surroundings import NOTHING, Surroundings

if TYPE_CHECKING:
    from coriolis.providers.libvirt.session import Session


class LibvirtConnection:
    """One open session and the parts over it."""

    def __init__(self, session: Session, info: Mapping[str, Any]) -> None:
        from coriolis.providers.image_check import DEFAULT_MAX_SIZE_BYTES
        from coriolis.providers.libvirt.instances import LibvirtInstances
        from coriolis.providers.libvirt.inventory import LibvirtInventory
        from coriolis.providers.libvirt.live import LiveSnapshots
        from coriolis.providers.libvirt.power import LibvirtPower
        from coriolis.providers.libvirt.source import LibvirtSource
        from coriolis.providers.libvirt.stopped import StoppedSnapshots
        from coriolis.providers.libvirt.volumes import LibvirtVolumes

        defaults = {key: rule.get("default") for key, rule in schemas.CONNECTION["properties"].items()}
        known = {**defaults, **info}
        pool, limit = known["storage_pool"], known["max_disk_bytes"] or DEFAULT_MAX_SIZE_BYTES
        live = LiveSnapshots(session, known["scratch_dir"], known["min_scratch_free_bytes"])
        self.inventory = LibvirtInventory(session)
        self.snapshots = LibvirtSource(session, live, StoppedSnapshots(session, limit))
        self.power = LibvirtPower(session)
        self.volumes = LibvirtVolumes(session, pool, limit)
        self.instances = LibvirtInstances(session, self.volumes, pool, known["console_dir"])


class LibvirtProvider:
    """Meets ``Provider``."""

    name = "libvirt"
    capabilities = Capabilities(
        origin=True,
        destination=True,
        live_source=True,
        change_log=True,
        power_control=True,
        starts_instances=True,
        plain_names=True,
        proof_of_boot=True,
        free_networks=("network:*", "bridge:*", "user", "none"),
        describes_subnets=True,
        storage_member="storage_pool",
        target_platform="kvm",
    )
    connection_schema: JsonSchema = schemas.CONNECTION
    source_environment_schema: JsonSchema = schemas.SOURCE_ENVIRONMENT
    destination_environment_schema: JsonSchema = schemas.DESTINATION_ENVIRONMENT

    def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AbstractAsyncContextManager[Connection]:
        return _connect(connection_info)


@asynccontextmanager
async def _connect(connection_info: Mapping[str, Any]) -> AsyncIterator[Connection]:
    check_document(connection_info, schemas.CONNECTION, "connection_info")
    try:
        from coriolis.providers.libvirt.session import Session
    except ImportError as error:
        raise Unsupported("the libvirt Python binding is not installed: install python3-libvirt") from error
    session = Session(connection_info["uri"])
    try:
        await session.open()
        yield LibvirtConnection(session, connection_info)
    finally:
        await session.close()
