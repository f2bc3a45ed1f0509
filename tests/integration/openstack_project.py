"""Requests for a machine in a project of the lab's OpenStack, and what they are tried with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from coriolis.ids import derived_id, new_id, resource_name
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag, Volume, VolumeRequest
from coriolis.providers.openstack.provider import OpenstackProvider
from tests.contract.openstack_destination import FLAVOR, NETWORK, Project

MAC = "52:54:00:0a:0b:0c"


class Trial:
    """One job with one machine. ``events``: what the provider told."""

    def __init__(
        self, project: Project, folder: Path, *, disks: tuple[int, ...] = (8 << 20,), **environment: Any
    ) -> None:
        self.project, self.job, self.folder = project, new_id(), folder
        self.events: list[str] = []
        self.environment = {
            "data_path": "attach",
            "network_map": {"lan": NETWORK},
            "flavor_name": FLAVOR,
            **environment,
        }
        devices = Devices(
            disks=tuple(Disk(f"d{number}", size) for number, size in enumerate(disks)), nics=(Nic("lan", MAC),)
        )
        self.spec = MachineSpec("origin-1", "origin", 1, 64, devices=devices)

    @property
    def instance_id(self) -> str:
        return derived_id(self.job, "0")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        around = self.project.surroundings(
            self.folder, environment=self.environment, tell=lambda text, level="INFO": self.events.append(text)
        )
        async with OpenstackProvider().connect(self.project.connection_info, around) as connection:
            yield connection

    def volume_request(self, number: int = 0) -> VolumeRequest:
        role, size = f"disk-{number}", self.spec.devices.disks[number].size_bytes
        return VolumeRequest(resource_name(self.job, 0, role), size, Tag(self.job, role), environment=self.environment)

    async def volumes(self, connection: Any) -> tuple[Volume, ...]:
        count = len(self.spec.devices.disks)
        return tuple([await connection.volumes.create_volume(self.volume_request(number)) for number in range(count)])

    def request(self, volumes: tuple[Volume, ...] = (), **changes: Any) -> InstanceRequest:
        request = InstanceRequest(
            name=f"moved-{self.job[:8]}",
            instance_id=self.instance_id,
            tag=Tag(self.job, "instance"),
            spec=self.spec,
            volumes=volumes,
            environment=self.environment,
        )
        return msgspec.structs.replace(request, **changes)

    async def clean(self, connection: Any) -> None:
        """As a failed job cleans up: machines first, then volumes."""
        for found in await connection.instances.find_tagged(self.job):
            if found.kind == "instance":
                await connection.instances.delete_instance(found.id)
        for found in await connection.instances.find_tagged(self.job):
            await connection.volumes.delete_volume(found.id)
