"""What only the image provider does: publication in two steps that may be cut short anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coriolis.errors import Conflict
from coriolis.ids import derived_id, new_id
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, ResourceKind, Tag, VolumeRequest
from coriolis.providers.image.provider import ImageProvider
from tests.contract.case import SIZE, sample_disk


class Killed(BaseException):
    """Stands for SIGKILL at this point."""


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
@pytest.mark.parametrize("call", ["link", "rename", "unlink", "replace"])
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_create_cut_short_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmt: str, call: str, after: int
) -> None:
    job, sample = new_id(), bytes(sample_disk(2))
    async with ImageProvider().connect({"path": str(tmp_path)}) as connection:
        assert connection.volumes is not None
        assert connection.instances is not None
        volume = await connection.volumes.create_volume(VolumeRequest(f"coriolis-{job}-0", SIZE, Tag(job, "disk")))
        async with connection.volumes.open_writer(volume.id) as writer:
            await writer.write_at(0, sample)
            await writer.flush()
        devices = Devices(disks=(Disk("d", SIZE),), nics=(Nic("lan", None),))
        spec = MachineSpec("o", "o", 1, 64, devices=devices)
        request = InstanceRequest("web", derived_id(job), Tag(job, "instance"), spec, (volume,), {}, {"format": fmt})
        monkeypatch.setattr(os, call, _dies(getattr(os, call), after))
        try:
            await connection.instances.create_instance(request)
        except Killed:
            pass
        monkeypatch.undo()
        kinds = {resource.kind for resource in await connection.instances.find_tagged(job)}
        assert ResourceKind.VOLUME in kinds
        made = await connection.instances.create_instance(request)
        assert await connection.instances.create_instance(request) == made
        spec = await connection.inventory.get_instance("web")
        assert connection.snapshots is not None
        snapshot = await connection.snapshots.create_snapshot(spec.id, "coriolis-c", None)
        async with connection.snapshots.open_reader(snapshot, "disk-0") as reader:
            assert await reader.read_at(0, SIZE) == sample
        await connection.instances.delete_instance(request.instance_id)
        await connection.volumes.delete_volume(volume.id)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert left == [".coriolis"]


def _dies(real: Callable[..., object], after: int) -> Callable[..., object]:
    seen = 0

    def call(*args: object, **keywords: object) -> object:
        nonlocal seen
        seen += 1
        if seen > after:
            raise Killed
        return real(*args, **keywords)

    return call


async def test_two_files_for_one_name(tmp_path: Path) -> None:
    for name in ("vm.toml", "vm.ova"):
        (tmp_path / name).write_bytes(b"")
    async with ImageProvider().connect({"path": str(tmp_path)}) as connection:
        with pytest.raises(Conflict, match="ambiguous"):
            await connection.inventory.get_instance("vm")
