"""What every destination keeps."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from coriolis.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from coriolis.ids import derived_id, new_id, resource_name
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, ResourceKind, Tag, Volume, VolumeRequest
from coriolis.providers.base import Connection, InstanceTarget, VolumeTarget
from tests.contract.case import BLOCK, SIZE, Destination, sample_disk


def volumes_of(connection: Connection) -> VolumeTarget:
    assert connection.volumes is not None
    return connection.volumes


def instances_of(connection: Connection) -> InstanceTarget:
    assert connection.instances is not None
    return connection.instances


def volume_request(destination: Destination, job: str, index: int = 0, size: int = SIZE) -> VolumeRequest:
    role = f"disk-{index}"
    return VolumeRequest(resource_name(job, 0, role), size, Tag(job, role), environment=destination.environment)


def spec(disks: int = 1) -> MachineSpec:
    devices = Devices(disks=tuple(Disk(f"d{i}", SIZE) for i in range(disks)), nics=(Nic("lan", "52:54:00:01:02:03"),))
    return MachineSpec("o", "o", 1, 64, devices=devices)


def instance_request(destination: Destination, job: str, volumes: tuple[Volume, ...]) -> InstanceRequest:
    return InstanceRequest(
        name=f"moved-{job[:8]}",
        instance_id=derived_id(job, "0"),
        tag=Tag(job, "instance"),
        spec=spec(max(1, len(volumes))),
        volumes=volumes,
        network_map=destination.network_map,
        environment=destination.environment,
    )


async def tagged(connection: Connection, job: str) -> list[tuple[ResourceKind, str]]:
    return sorted((r.kind, r.id) for r in await instances_of(connection).find_tagged(job))


async def test_volume_life(destination: Destination) -> None:
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target, request = volumes_of(connection), volume_request(destination, job)
        first = await target.create_volume(request)
        assert first.size_bytes == SIZE
        assert await target.create_volume(request) == first
        assert await tagged(connection, job) == [(ResourceKind.VOLUME, first.id)]
        found = await instances_of(connection).find_tagged(job)
        assert found[0].tag == request.tag
        assert await tagged(connection, new_id()) == []
        with pytest.raises(Conflict):
            await target.create_volume(volume_request(destination, job, size=SIZE * 2))
        for _ in range(2):
            await target.delete_volume(first.id)
        assert await tagged(connection, job) == []
        with pytest.raises(NotFound):
            async with target.open_writer(first.id):
                pass


async def test_volume_refusals(destination: Destination) -> None:
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target = volumes_of(connection)
        with pytest.raises(QuotaExceeded) as caught:
            await target.create_volume(volume_request(destination, job, size=1 << 50))
        assert str(1 << 50) in caught.value.message or "left" in caught.value.message
        with pytest.raises(QuotaExceeded):
            await target.create_volume(volume_request(destination, job, size=40 << 40))
        assert await tagged(connection, job) == []
        request = volume_request(destination, job)
        destination.foreign_volume(request.name)
        with pytest.raises(Conflict, match="not ours"):
            await target.create_volume(request)
        for name in ("../evil", "a/b", "", "x" * 300, "new\nline"):
            with pytest.raises(InvalidInput):
                await target.create_volume(VolumeRequest(name, SIZE, Tag(job, "r")))
        with pytest.raises(InvalidInput):
            await target.create_volume(volume_request(destination, job, size=-1))


async def test_writer(destination: Destination) -> None:
    job, truth = new_id(), bytearray(SIZE)
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target = volumes_of(connection)
        volume = await target.create_volume(volume_request(destination, job))
        async with target.open_writer(volume.id) as writer:
            assert writer.size == SIZE
            if volume.fresh_is_zero:
                assert await writer.read_at(0, SIZE) == truth
            sample = sample_disk(9)
            chunks = range(0, SIZE, BLOCK)
            await asyncio.gather(*(writer.write_at(at, memoryview(sample)[at : at + BLOCK]) for at in chunks))
            truth[:] = sample
            for offset, data in ((1, b"unaligned"), (SIZE - 3, b"end"), (5, b"")):
                await writer.write_at(offset, data)
                truth[offset : offset + len(data)] = data
            for offset, length in ((BLOCK, BLOCK), (SIZE // 2, 4097), (SIZE - 1, 1), (7, 0)):
                await writer.write_zeroes(offset, length)
                truth[offset : offset + length] = bytes(length)
            assert await writer.read_at(0, SIZE) == truth
            await writer.flush()
            for offset, data in ((SIZE, b"x"), (SIZE - 1, b"xy"), (-1, b"x")):
                with pytest.raises(InvalidInput):
                    await writer.write_at(offset, data)
                with pytest.raises(InvalidInput):
                    await writer.write_zeroes(offset, len(data))
        async with target.open_writer(volume.id) as writer:
            assert await writer.read_at(0, SIZE) == truth
        assert await target.create_volume(volume_request(destination, job)) == volume
        await target.delete_volume(volume.id)


@pytest.mark.parametrize("size", [0, 1, 511, (1 << 20) - 1, (1 << 20) + 1])
async def test_odd_sizes(destination: Destination, size: int) -> None:
    """D8: the exact size is kept, or refused where the format cannot keep it."""
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target = volumes_of(connection)
        if destination.environment.get("volume_format") == "qcow2":
            with pytest.raises(InvalidInput, match="use volume_format raw"):
                await target.create_volume(volume_request(destination, job, size=size))
            return
        volume = await target.create_volume(volume_request(destination, job, size=size))
        data = bytes(range(1, 252)) * (size // 251 + 1)
        async with target.open_writer(volume.id) as writer:
            assert writer.size == size
            await writer.write_at(0, data[:size])
            await writer.flush()
            assert await writer.read_at(0, size) == data[:size]
            await writer.write_zeroes(0, size)
            assert await writer.read_at(0, size) == bytes(size)
        await target.delete_volume(volume.id)


async def test_large_sparse_volume(destination: Destination) -> None:
    """D8: 2 TiB + 512 B, written at both ends, needs no space for what was never written."""
    if not destination.has_terabytes:
        pytest.skip("the laboratory's storage has no room for it")
    unit = 1024 if destination.environment.get("volume_format") == "qcow2" else 512
    job, size = new_id(), (2 << 40) + unit
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target = volumes_of(connection)
        request = volume_request(destination, job, size=size)
        sparse = VolumeRequest(request.name, size, request.tag, "", {**request.environment, "allow_overcommit": True})
        volume = await target.create_volume(sparse)
        async with target.open_writer(volume.id) as writer:
            for at in (0, size - 512):
                await writer.write_at(at, b"x" * 512)
            await writer.write_zeroes(4096, size - 8192)
            await writer.flush()
            assert await writer.read_at(size - 512, 512) == b"x" * 512
        assert os.stat(volume.attributes["path"]).st_blocks * 512 < 64 << 20
        await target.delete_volume(volume.id)


async def test_overlapping_writes_land_in_call_order(destination: Destination) -> None:
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target = volumes_of(connection)
        volume = await target.create_volume(volume_request(destination, job))
        async with target.open_writer(volume.id) as writer:
            calls = [writer.write_at(4096, bytes([n]) * BLOCK) for n in range(32)]
            calls += [writer.write_zeroes(4096, 512), writer.write_at(4096, b"last"), writer.flush()]
            await asyncio.gather(*calls)
            assert await writer.read_at(4096, BLOCK) == b"last" + bytes(508) + bytes([31]) * (BLOCK - 512)
        await target.delete_volume(volume.id)


async def test_cancelled_write_leaves_the_writer_sound(destination: Destination) -> None:
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target = volumes_of(connection)
        volume = await target.create_volume(volume_request(destination, job))
        async with target.open_writer(volume.id) as writer:
            task = asyncio.create_task(writer.write_at(0, bytes(SIZE)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await writer.write_at(0, b"after")
            await writer.flush()
            assert await writer.read_at(0, 5) == b"after"
        await target.delete_volume(volume.id)


async def test_instance_life(destination: Destination) -> None:
    job, sample = new_id(), sample_disk(3)
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target, machines = volumes_of(connection), instances_of(connection)
        await machines.validate(instance_request(destination, job, ()))
        volumes = [await target.create_volume(volume_request(destination, job, index)) for index in range(2)]
        for volume in volumes:
            async with target.open_writer(volume.id) as writer:
                await writer.write_at(0, sample)
                await writer.flush()
        request = instance_request(destination, job, tuple(volumes))
        made = await machines.create_instance(request)
        assert (made.id, made.name, made.running) == (request.instance_id, request.name, False)
        assert await machines.create_instance(request) == made
        assert (ResourceKind.INSTANCE, made.id) in await tagged(connection, job)
        assert len(await tagged(connection, job)) == 3
        if destination.made_at_start:
            with pytest.raises(NotFound):
                await connection.inventory.get_instance(request.name)
            await machines.start(made.id)
        inside = await connection.inventory.get_instance(request.name)
        unit = destination.size_unit
        assert [disk.size_bytes for disk in inside.devices.disks] == [-(-SIZE // unit) * unit] * 2
        assert inside.devices.nics[0].mac_address == "52:54:00:01:02:03"
        if not destination.made_at_start:  # its snapshots are the origin's tests, and take long
            await check_read_back(connection, inside.id, [disk.id for disk in inside.devices.disks], bytes(sample))
        for _ in range(2):
            await machines.start(made.id)
        if destination.is_running is not None:
            assert await destination.is_running(made.id)
        for _ in range(2):
            await machines.delete_instance(made.id)
        assert len(await tagged(connection, job)) == 2
        async with target.open_writer(volumes[0].id) as writer:
            assert await writer.read_at(0, SIZE) == sample
        for volume in volumes:
            await target.delete_volume(volume.id)
        with pytest.raises(NotFound):
            await machines.start(made.id)


async def check_read_back(connection: Connection, instance: str, disks: list[str], sample: bytes) -> None:
    """What was made is itself a good origin with the same bytes."""
    source = connection.snapshots
    if source is None:
        return
    snapshot = await source.create_snapshot(instance, "coriolis-check", None)
    for disk in disks:
        async with source.open_reader(snapshot, disk) as reader:
            assert await reader.read_at(0, reader.size) == sample


async def test_instance_refusals(destination: Destination) -> None:
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        machines = instances_of(connection)
        request = instance_request(destination, job, ())
        destination.foreign_instance(request.name)
        for call in (machines.validate, machines.create_instance):
            with pytest.raises(Conflict, match="not of this job"):
                await call(request)
        await machines.delete_instance(request.instance_id)
        await machines.delete_instance(new_id())
        wrong = InstanceRequest("ok", new_id(), request.tag, request.spec, (), {}, {"no-such": True})
        with pytest.raises(InvalidInput, match="target_environment"):
            await machines.validate(wrong)


async def test_absent_volume_in_instance(destination: Destination, tmp_path: Path) -> None:
    job = new_id()
    async with destination.provider.connect(destination.connection_info, destination.surroundings) as connection:
        target, machines = volumes_of(connection), instances_of(connection)
        volume = await target.create_volume(volume_request(destination, job))
        await target.delete_volume(volume.id)
        request = instance_request(destination, job, (volume,))
        with pytest.raises(NotFound):
            await machines.create_instance(request)
        await machines.delete_instance(request.instance_id)
        assert await tagged(connection, job) == []
