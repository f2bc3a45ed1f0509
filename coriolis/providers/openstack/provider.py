"""Provider type ``openstack``: one project of one region. openstacksdk loads when connected."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from coriolis.errors import Unsupported
from coriolis.providers.base import Connection, InstanceTarget, JsonSchema, VolumeTarget
from coriolis.providers.capabilities import Capabilities
from coriolis.providers.openstack.connection_schema import CONNECTION
from coriolis.providers.openstack.destination_schema import DESTINATION_ENVIRONMENT
from coriolis.providers.openstack.source_schema import SOURCE_ENVIRONMENT
from coriolis.providers.schema_check import check_document
from coriolis.providers.surroundings import NOTHING, Surroundings

if TYPE_CHECKING:
    from coriolis.providers.openstack.attachment import Attacher
    from coriolis.providers.openstack.ceph_cluster import CephCluster
    from coriolis.providers.openstack.session import Session


class OpenstackConnection:
    """One login and the parts over it."""

    def __init__(
        self, session: Session, surroundings: Surroundings, attacher: Attacher | None, ceph: CephCluster | None = None
    ) -> None:
        from coriolis.providers.openstack import data_path
        from coriolis.providers.openstack.cinder_volumes import CinderVolumes
        from coriolis.providers.openstack.instances import OpenstackInstances
        from coriolis.providers.openstack.inventory import OpenstackInventory
        from coriolis.providers.openstack.power import OpenstackPower
        from coriolis.providers.openstack.source import OpenstackSource
        from coriolis.providers.openstack.volumes import OpenstackVolumes

        self.session = session
        self.inventory = OpenstackInventory(session, ceph)
        self.snapshots = OpenstackSource(session, attacher, surroundings, ceph)
        self.power = OpenstackPower(session)
        cinder = CinderVolumes(session, attacher, surroundings.tell)
        wanted = str(surroundings.environment.get("data_path", "auto"))
        ways = data_path.ways(attacher, surroundings.staging_dir)
        volumes = OpenstackVolumes(session, cinder, ways, surroundings.staging_dir, wanted)
        self.volumes: VolumeTarget = volumes
        self.instances: InstanceTarget = OpenstackInstances(session, volumes, surroundings.tell)


class OpenstackProvider:
    """Meets ``Provider``."""

    name = "openstack"
    capabilities = Capabilities(
        origin=True,
        destination=True,
        starts_instances=True,
        live_source=True,
        change_log=True,
        power_control=True,
        takes_tokens=True,
        describes_subnets=True,
        storage_member="volume_type",
        reserves_nics=True,
        target_platform="openstack",
    )
    connection_schema: JsonSchema = CONNECTION
    source_environment_schema: JsonSchema = SOURCE_ENVIRONMENT
    destination_environment_schema: JsonSchema = DESTINATION_ENVIRONMENT

    def connect(
        self, connection_info: Mapping[str, Any], surroundings: Surroundings = NOTHING
    ) -> AbstractAsyncContextManager[Connection]:
        return _connect(connection_info, surroundings)


@asynccontextmanager
async def _connect(connection_info: Mapping[str, Any], surroundings: Surroundings) -> AsyncIterator[Connection]:
    check_document(connection_info, CONNECTION, "connection_info")
    from coriolis.providers.openstack.access import access_of
    from coriolis.providers.openstack.ceph_access import ceph_access_of

    access, ceph_access = access_of(connection_info), ceph_access_of(connection_info)
    try:
        from coriolis.providers.openstack.ceph_cluster import CephCluster
        from coriolis.providers.openstack.data_path import attacher_here
        from coriolis.providers.openstack.session import Session
    except ImportError as error:
        raise Unsupported("openstacksdk is not installed: install coriolis-mesh[openstack]") from error
    session = Session(access, surroundings.renew)
    ceph = CephCluster(ceph_access) if ceph_access is not None else None
    try:
        await session.open()
        yield OpenstackConnection(session, surroundings, await attacher_here(session, surroundings), ceph)
    finally:
        if ceph is not None:
            await ceph.close()
        await session.close()
