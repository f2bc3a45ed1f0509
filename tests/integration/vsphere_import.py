"""A machine on its way to a simulated vCenter: staged disks, the request, what arrived. Also a child to be killed.

``python -m tests.integration.vsphere_import <json>`` uploads slowly until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from pyVmomi import vim

from coriolis.ids import derived_id, resource_name
from coriolis.model.machine import Controller, Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag, Volume, VolumeRequest
from coriolis.providers.base import Connection, InstanceTarget, VolumeTarget
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere import disk_stream
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from coriolis.providers.vmware_vsphere.session import Session

MIB = 1 << 20
ENVIRONMENT = {"cluster": "DC0_C0", "datastore": "LocalDS_0", "network_map": {"lan": "VM Network", "dmz": "DC0_DVPG0"}}
CHILD_PAUSE_S = 0.2


class Told(list[str]):
    """The events of a task, as ``Surroundings.tell`` leaves them."""

    def __call__(self, message: str, level: str = "INFO") -> None:
        self.append(f"{level}: {message}")


def connect(info: dict[str, Any], staging: Path | None, told: Told | None = None) -> AbstractAsyncContextManager[Any]:
    return VsphereProvider().connect(info, Surroundings(staging_dir=staging, tell=Told() if told is None else told))


def parts(connection: Connection) -> tuple[VolumeTarget, InstanceTarget]:
    assert connection.volumes is not None
    assert connection.instances is not None
    return connection.volumes, connection.instances


def disk_content(seed: int, size: int = 3 * MIB + 4096) -> bytes:
    """Random bytes, a hole and random bytes at the end."""
    chance = random.Random(seed)
    return chance.randbytes(MIB) + bytes(size - MIB - 5000) + chance.randbytes(5000)


def spec_of(sizes: list[int], **changes: Any) -> MachineSpec:
    devices = Devices(
        disks=tuple(Disk(f"d{i}", size, storage_backend_identifier=f"san-{i}") for i, size in enumerate(sizes)),
        nics=(Nic("lan", "52:54:00:01:02:03"), Nic("dmz", "00:50:56:3f:00:01"), Nic("dmz", "00:0c:29:00:00:01")),
        controllers=(Controller("0", "scsi"),),
    )
    return MachineSpec(**{"id": "o", "name": "web", "num_cpu": 2, "memory_mb": 1023, "devices": devices, **changes})


async def staged(connection: Connection, job: str, contents: list[bytes]) -> tuple[Volume, ...]:
    target, made = parts(connection)[0], []
    for index, content in enumerate(contents):
        role = f"disk-{index}"
        volume = await target.create_volume(VolumeRequest(resource_name(job, 0, role), len(content), Tag(job, role)))
        async with target.open_writer(volume.id) as writer:
            for at in range(0, len(content), MIB):
                if any(piece := content[at : at + MIB]):
                    await writer.write_at(at, piece)
            await writer.flush()
        made.append(volume)
    return tuple(made)


def request_of(job: str, volumes: tuple[Volume, ...], spec: MachineSpec, **environment: Any) -> InstanceRequest:
    name, tag = f"web {job[:8]}", Tag(job, "instance")
    return InstanceRequest(name, derived_id(job, "0"), tag, spec, volumes, {}, {**ENVIRONMENT, **environment})


async def config_of(info: dict[str, Any], instance_id: str) -> dict[str, Any]:
    """Properties of the machine of that instance UUID; its notes and devices among them."""
    paths = ["name", "config.annotation", "config.firmware", "config.bootOptions", "config.guestId", "config.template"]
    paths += ["config.hardware.device", "config.hardware.numCPU", "config.hardware.memoryMB", "config.extraConfig"]
    paths += ["config.version", "config.hardware.numCoresPerSocket", "config.files.vmPathName"]

    def read(content: Any) -> dict[str, Any]:
        (vm,) = content.searchIndex.FindAllByUuid(uuid=instance_id, vmSearch=True, instanceUuid=True)
        return next(some(content, [vm], paths))[1]

    session = Session(info)
    try:
        await session.open()
        return await session.run(read)
    finally:
        await session.close()


async def datastore_directory(info: dict[str, Any]) -> Path:
    """Where the simulator keeps its only datastore's files."""

    def read(content: Any) -> str:
        store = content.searchIndex.FindByInventoryPath("/DC0/datastore/LocalDS_0") or vim.Datastore(
            "datastore-59", content.rootFolder._stub
        )
        return str(next(some(content, [store], ["info"]))[1]["info"].url)

    session = Session(info)
    try:
        await session.open()
        return Path(await session.run(read))
    finally:
        await session.close()


async def _child(given: dict[str, Any]) -> None:
    whole = disk_stream.packed_grains

    def slowly(*span: int) -> list[tuple[int, bytes]]:
        time.sleep(CHILD_PAUSE_S)
        return whole(*span)

    disk_stream.packed_grains = slowly
    async with connect(given["info"], Path(given["staging"])) as connection:
        contents = [random.Random(seed).randbytes(64 * MIB) for seed in range(2)]
        volumes = await staged(connection, given["job"], contents)
        await parts(connection)[1].create_instance(request_of(given["job"], volumes, spec_of([64 * MIB] * 2)))


if __name__ == "__main__":
    asyncio.run(_child(json.loads(sys.argv[1])))
