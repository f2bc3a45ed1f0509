"""Provider type ``vmware_vsphere``: a vCenter or one ESXi host. pyvmomi loads when connected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from coriolis.errors import Unsupported
from coriolis.providers.base import Connection, JsonSchema
from coriolis.providers.capabilities import Capabilities
from coriolis.providers.schema_check import check_document
from coriolis.providers.surroundings import NOTHING, Surroundings
from coriolis.providers.vmware_vsphere import schemas

if TYPE_CHECKING:
    from coriolis.providers.vmware_vsphere.session import Session


class VsphereConnection:
    """One login and the parts over it."""

    def __init__(self, session: Session, info: Mapping[str, Any], surroundings: Surroundings) -> None:
        from coriolis.providers.vmware_vsphere.instances import VsphereInstances
        from coriolis.providers.vmware_vsphere.inventory import VsphereInventory
        from coriolis.providers.vmware_vsphere.power import VspherePower
        from coriolis.providers.vmware_vsphere.source import VsphereSource
        from coriolis.providers.vmware_vsphere.transports import DEFAULT_LIMITS, Transports
        from coriolis.providers.vmware_vsphere.volumes import VsphereVolumes

        self.inventory = VsphereInventory(session, vddk=surroundings.vddk_dir is not None)
        transports = Transports(session, {**DEFAULT_LIMITS, **info}, surroundings)
        self.snapshots = VsphereSource(session, transports, surroundings)
        self.power = VspherePower(session)
        self.volumes = VsphereVolumes(surroundings.staging_dir, session.where)
        self.instances = VsphereInstances(session, info, self.volumes, surroundings)


class VsphereProvider:
    """Meets ``Provider``."""

    name = "vmware_vsphere"
    capabilities = Capabilities(
        origin=True,
        destination=True,
        live_source=True,
        change_log=True,
        power_control=True,
        starts_instances=True,
        reserves_nics=True,
        storage_member="datastore",
        storage_required=True,
        target_platform="vmware",
    )
    connection_schema: JsonSchema = schemas.CONNECTION
    source_environment_schema: JsonSchema = schemas.SOURCE_ENVIRONMENT
    destination_environment_schema: JsonSchema = schemas.DESTINATION_ENVIRONMENT

    def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AbstractAsyncContextManager[Connection]:
        return _connect(connection_info, surroundings)


@asynccontextmanager
async def _connect(connection_info: Mapping[str, Any], surroundings: Surroundings) -> AsyncIterator[Connection]:
    check_document(connection_info, schemas.CONNECTION, "connection_info")
    try:
        from coriolis.providers.vmware_vsphere.session import Session
    except ImportError as error:
        raise Unsupported("pyvmomi is not installed: install coriolis-mesh[vsphere]") from error
    session = Session(connection_info)
    try:
        await session.open()
        yield VsphereConnection(session, connection_info, surroundings)
    finally:
        await session.close()
