"""Machines imported into a simulated vCenter or ESXi host (govmomi's vcsim).

vcsim makes the machine and the lease; that what is uploaded becomes the disk's files is our own addition to it
(tests/lab/vcsim/uploads.go), which unpacks the stream by a decoder of its own and refuses one that is cut off.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from coriolis.errors import Conflict, CoriolisError, InvalidInput, QuotaExceeded, Unavailable, Unsupported
from coriolis.ids import new_id
from coriolis.model.machine import Devices, Disk
from coriolis.model.resource import ResourceKind
from coriolis.providers.vmware_vsphere import disk_stream, disk_upload, import_lease, instances
from coriolis.providers.vmware_vsphere.import_spec import IMPORTING, READY, marks_of
from tests.integration.vsphere_import import (
    MIB,
    Told,
    config_of,
    connect,
    datastore_directory,
    disk_content,
    parts,
    request_of,
    spec_of,
    staged,
)
from tests.lab.vcsim import Simulator, vcsim


def of_kind(config: dict[str, Any], kind: Any) -> list[Any]:
    return [device for device in config["config.hardware.device"] if isinstance(device, kind)]


def uploading_child(given: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.integration.vsphere_import", given])


async def arrived(simulator: Simulator, config: dict[str, Any]) -> list[bytes]:
    """What the datastore holds of each disk."""
    home = await datastore_directory(simulator.connection_info())
    files = [disk.backing.fileName.partition("] ")[2] for disk in of_kind(config, vim.vm.device.VirtualDisk)]
    return [(home / file.replace(".vmdk", "-flat.vmdk")).read_bytes() for file in files]


async def test_a_machine_arrives_with_its_hardware_and_every_byte(simulator: Simulator, tmp_path: Path) -> None:
    job, info, told = new_id(), simulator.connection_info(), Told()
    contents = [disk_content(1), disk_content(2, 5 * MIB + 7), bytes(2 * MIB)]
    async with connect(info, tmp_path, told) as connection:
        volumes = await staged(connection, job, contents)
        spec = spec_of(
            [len(one) for one in contents],
            firmware_type="EFI",
            secure_boot=True,
            guest_id="debian12_64Guest",
        )
        request = request_of(job, volumes, spec, hardware_version="vmx-19", cores_per_socket=2)
        target = parts(connection)[1]
        await target.validate(request)
        made = await target.create_instance(request)
        assert (made.id, made.running) == (request.instance_id, False)
        assert await target.create_instance(request) == made
        assert len(await target.find_tagged(job)) == 4
        for volume in volumes:
            await parts(connection)[0].delete_volume(volume.id)
        assert await target.create_instance(request) == made, "a machine that stands needs no staged disk"
    config = await config_of(info, made.id)
    assert config["name"] == request.name
    assert config["config.firmware"] == "efi"
    assert config["config.bootOptions"].efiSecureBootEnabled is True
    assert config["config.guestId"] == "debian12_64Guest"
    assert config["config.version"] == "vmx-19"
    assert (config["config.hardware.numCPU"], config["config.hardware.numCoresPerSocket"]) == (2, 2)
    assert config["config.hardware.memoryMB"] == 1024, "in steps of 4 MiB"
    assert config["config.annotation"].startswith(f"{request.tag}\n")
    assert marks_of(config["config.extraConfig"]) == (str(request.tag), READY)
    assert len(of_kind(config, vim.vm.device.ParaVirtualSCSIController)) == 1
    disks = of_kind(config, vim.vm.device.VirtualDisk)
    assert [disk.unitNumber for disk in disks] == [0, 1, 2]
    assert all(disk.backing.thinProvisioned for disk in disks)
    assert [disk.capacityInBytes for disk in disks] == [3 * MIB + 4096, 5 * MIB + 1024, 2 * MIB], "in whole KiB"
    for found, content in zip(await arrived(simulator, config), contents, strict=True):
        assert found == content.ljust(len(found), b"\0")
    plain, dmz, reserved = of_kind(config, vim.vm.device.VirtualVmxnet3)
    assert (plain.backing.deviceName, plain.addressType, plain.macAddress) == (
        "VM Network",
        "manual",
        "52:54:00:01:02:03",
    )
    assert dmz.backing.port.portgroupKey.startswith("dvportgroup-")
    assert dmz.macAddress == "00:50:56:3f:00:01"
    assert reserved.addressType == "manual"
    assert reserved.macAddress.startswith("00:50:56:"), "VMware's own are refused: one of its static range"
    warnings = [one for one in told if one.startswith("WARNING")]
    assert warnings
    assert all("00:0c:29:00:00:01" in one for one in warnings)


async def test_other_hardware_and_more_disks_than_one_controller_takes(simulator: Simulator, tmp_path: Path) -> None:
    job, info = new_id(), simulator.connection_info()
    contents = [bytes([number + 1]) * 1024 for number in range(17)]
    async with connect(info, tmp_path) as connection:
        volumes = await staged(connection, job, contents)
        request = request_of(
            job,
            volumes,
            spec_of([1024] * 17, os_type="windows"),
            nic_type="e1000e",
            keep_mac=False,
            disk_allocation="thick",
        )
        made = await parts(connection)[1].create_instance(request)
    config = await config_of(info, made.id)
    controllers = of_kind(config, vim.vm.device.VirtualLsiLogicSASController)
    assert [one.busNumber for one in controllers] == [0, 1]
    disks = of_kind(config, vim.vm.device.VirtualDisk)
    assert [disk.unitNumber for disk in disks] == [*range(7), *range(8, 16), 0, 1]
    assert not any(disk.backing.thinProvisioned for disk in disks)
    assert await arrived(simulator, config) == contents
    cards = of_kind(config, vim.vm.device.VirtualE1000e)
    assert {(one.addressType, one.macAddress[:9]) for one in cards} == {("manual", "00:50:56:")}
    assert len({one.macAddress for one in cards}) == 3
    assert config["config.guestId"] == "windows9Server64Guest"


@pytest.mark.parametrize(("origin", "environment"), [(True, {}), (False, {"as_template": True})])
async def test_a_template_becomes_a_template(
    simulator: Simulator, tmp_path: Path, origin: bool, environment: dict[str, Any]
) -> None:
    job, info, told = new_id(), simulator.connection_info(), Told()
    async with connect(info, tmp_path, told) as connection:
        volumes = await staged(connection, job, [disk_content(3)])
        request = request_of(job, volumes, spec_of([volumes[0].size_bytes], is_template=origin), **environment)
        target = parts(connection)[1]
        made = await target.create_instance(request)
        assert await target.create_instance(request) == made
        assert (await config_of(info, made.id))["config.template"] is True
        await target.start(made.id)
        assert "is a template: it is not started" in told[-1]
        assert (await connection.inventory.get_instance(request.name)).is_template
        await target.delete_instance(made.id)
        assert [one.kind for one in await target.find_tagged(job)] == [ResourceKind.VOLUME]


async def test_an_upload_that_was_killed_is_found_and_made_again(simulator: Simulator, tmp_path: Path) -> None:
    job, info = new_id(), simulator.connection_info()
    given = json.dumps({"info": info, "job": job, "staging": str(tmp_path)})
    child = uploading_child(given)
    home = await datastore_directory(info)
    request = request_of(job, (), spec_of([64 * MIB] * 2))
    try:
        async with asyncio.timeout(60):
            while not [one for one in home.glob(f"{request.name}/*.part") if one.stat().st_size > MIB]:
                assert child.poll() is None, "the child ended before it was killed"
                await asyncio.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
    told = Told()
    async with connect(info, tmp_path, told) as connection:
        target = parts(connection)[1]
        assert marks_of((await config_of(info, request.instance_id))["config.extraConfig"])[1] == IMPORTING
        assert (ResourceKind.INSTANCE, request.instance_id) in [(o.kind, o.id) for o in await target.find_tagged(job)]
        with pytest.raises(Conflict, match="incomplete"):
            await target.start(request.instance_id)
        content = disk_content(4)
        volumes = await staged(connection, new_id(), [content])
        small = request_of(job, volumes, spec_of([len(content)]))
        made = await target.create_instance(small)
        assert any("interrupted upload" in one for one in told)
        config = await config_of(info, made.id)
        assert marks_of(config["config.extraConfig"])[1] == READY
        assert await arrived(simulator, config) == [content]
        await target.delete_instance(made.id)
        assert ResourceKind.INSTANCE not in {one.kind for one in await target.find_tagged(job)}


@pytest.mark.parametrize(
    ("environment", "error", "says"),
    [
        ({"datastore": "none"}, InvalidInput, "no datastore none .*known: LocalDS_0"),
        ({"cluster": "none"}, InvalidInput, "no cluster none .*known: /DC0/host/DC0_C0, /DC0/host/DC0_H0"),
        ({"folder": "none/such"}, InvalidInput, "no folder none/such; known: /DC0/vm"),
        ({"host": "DC0_H0"}, InvalidInput, "not in the cluster"),
        ({"resource_pool": "none"}, InvalidInput, "known: /DC0/host/DC0_C0/Resources"),
        ({"network_map": {"lan": "none", "dmz": "VM Network"}}, InvalidInput, "no network none .*known: .*VM Network"),
        ({"network_map": {"lan": "VM Network"}}, InvalidInput, "no entry for the origin network dmz"),
        ({"guest_id": "debian12_64guest"}, InvalidInput, "near to it: debian12_64Guest"),
        ({"cores_per_socket": 3}, InvalidInput, "does not divide"),
        ({"disk_allocation": "eager"}, QuotaExceeded, "LocalDS_0 has [0-9]+ bytes left"),
        ({"unknown": 1}, InvalidInput, "unknown field"),
    ],
)
async def test_refused_before_a_byte_moves(
    simulator: Simulator, tmp_path: Path, environment: dict[str, Any], error: type[CoriolisError], says: str
) -> None:
    spec = spec_of([60 << 40])
    async with connect(simulator.connection_info(), tmp_path) as connection:
        with pytest.raises(error, match=says):
            await parts(connection)[1].validate(request_of(new_id(), (), spec, **environment))


async def test_other_refusals(simulator: Simulator, tmp_path: Path) -> None:
    told = Told()
    async with connect(simulator.connection_info(), tmp_path, told) as connection:
        target = parts(connection)[1]
        await target.validate(request_of(new_id(), (), spec_of([60 << 40])))
        assert "will fill it" in told[-1]
        for spec, error, says in (
            (spec_of([63 << 40]), QuotaExceeded, "62 TiB"),
            (spec_of([1024] * 61), Unsupported, "at most 60"),
        ):
            with pytest.raises(error, match=says):
                await target.validate(request_of(new_id(), (), spec))
        without = {"cluster": "DC0_C0", "network_map": {}}
        bare = spec_of([], devices=Devices(disks=(Disk("d", 1024, storage_backend_identifier="san"),)))
        request = request_of(new_id(), (), bare)
        for environment, says in (
            (without, "no datastore for disk d"),
            ({"datastore": "LocalDS_0"}, "2 to choose from"),
        ):
            request.environment.clear()
            request.environment.update(environment)
            with pytest.raises(InvalidInput, match=says):
                await target.validate(request)
        request.environment.update({**without, "storage_map": {"san": "LocalDS_0"}})
        await target.validate(request)
    async with connect(simulator.connection_info(), None) as connection:
        with pytest.raises(InvalidInput, match="staging_dir"):
            await staged(connection, new_id(), [b"x"])


async def test_a_single_host_takes_machines_and_has_no_templates(tmp_path: Path) -> None:
    job, content = new_id(), disk_content(5)
    with vcsim("-esx") as host:
        async with connect(host.connection_info(), tmp_path) as connection:
            volumes = await staged(connection, job, [content])
            spec = spec_of([len(content)], devices=Devices(disks=(Disk("d", len(content)),)))
            request = request_of(job, volumes, spec)
            request.environment.pop("cluster")
            target = parts(connection)[1]
            made = await target.create_instance(request)
            for _ in range(2):
                await target.start(made.id)
            assert (await connection.inventory.get_instance(request.name)).power_state == "running"
            request.environment["as_template"] = True
            with pytest.raises(Unsupported, match="no templates"):
                await target.validate(request)


async def test_a_refused_disk_fails_the_import_and_the_machine_stays_ours(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host refuses a stream that is cut off; what was made is found and can be removed."""
    job, whole = new_id(), import_lease.vmdk_pieces

    def cut(*given: Any) -> Any:
        pieces = whole(*given)
        yield next(pieces)
        yield next(pieces)
        pieces.close()

    monkeypatch.setattr(import_lease, "vmdk_pieces", cut)
    async with connect(simulator.connection_info(), tmp_path) as connection:
        target = parts(connection)[1]
        volumes = await staged(connection, job, [disk_content(6), disk_content(7)])
        request = request_of(job, volumes, spec_of([one.size_bytes for one in volumes]))
        with pytest.raises(Unavailable, match="HTTP 500 cut off"):
            await target.create_instance(request)
        assert ResourceKind.INSTANCE in {one.kind for one in await target.find_tagged(job)}
        await target.delete_instance(request.instance_id)
        monkeypatch.undo()
        await target.create_instance(request)


async def test_a_cancelled_import_ends_its_uploads(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, begun, ended = new_id(), asyncio.Event(), []
    loop, whole = asyncio.get_running_loop(), disk_upload.DiskUpload.send

    def endless(upload: disk_upload.DiskUpload, pieces: Iterator[bytes]) -> None:
        loop.call_soon_threadsafe(begun.set)
        head = next(pieces)
        try:
            whole(upload, iter(lambda: head, None))
        finally:
            ended.append(upload.where)

    monkeypatch.setattr(disk_upload.DiskUpload, "send", endless)
    async with connect(simulator.connection_info(), tmp_path) as connection:
        target = parts(connection)[1]
        volumes = await staged(connection, job, [disk_content(6)])
        call = asyncio.create_task(target.create_instance(request_of(job, volumes, spec_of([volumes[0].size_bytes]))))
        await asyncio.wait_for(begun.wait(), 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 20)
        assert ended, "the thread that uploads has ended with its task"


async def test_a_lease_is_kept_alive_while_disks_are_sent(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, told, whole, packed = new_id(), list[int](), import_lease.Import._call, disk_stream.packed_grains

    class Spy:
        def __init__(self, lease: Any) -> None:
            self._lease = lease

        def __getattr__(self, name: str) -> Any:
            return getattr(self._lease, name)

        def HttpNfcLeaseProgress(self, percent: int) -> None:  # noqa: N802
            told.append(percent)
            if len(told) == 2:
                raise Unavailable("the endpoint was out of reach for a moment")
            self._lease.HttpNfcLeaseProgress(percent)

    def slowly(*span: int) -> list[tuple[int, bytes]]:
        time.sleep(0.3)
        return packed(*span)

    async def call(one: import_lease.Import, lease: str, work: Any) -> None:
        await whole(one, lease, lambda found: work(Spy(found)))

    monkeypatch.setattr(import_lease.Import, "_call", call)
    monkeypatch.setattr(import_lease, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(disk_stream, "packed_grains", slowly)
    async with connect(simulator.connection_info(), tmp_path) as connection:
        volumes = await staged(connection, job, [b"x" * 12 * MIB])
        await parts(connection)[1].create_instance(request_of(job, volumes, spec_of([12 * MIB])))
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] > told[0] == 0


@pytest.mark.parametrize(("refusals", "goes"), [(3, True), (1000, False)])
async def test_a_machine_that_a_dead_agents_lease_still_locks_is_waited_for(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, goes: bool
) -> None:
    """vcsim locks nothing: the first tasks are refused here as a vCenter would."""
    job, refused, task = new_id(), [0], instances.VsphereInstances._task

    async def locked(one: Any, begin: Any) -> None:
        refused[0] += 1
        if refused[0] <= refusals:
            raise Conflict("vSphere: the method is disabled by 'NFC lease'")
        await task(one, begin)

    async with connect(simulator.connection_info(), tmp_path) as connection:
        target = parts(connection)[1]
        volumes = await staged(connection, job, [b"x"])
        made = await target.create_instance(request_of(job, volumes, spec_of([1])))
        monkeypatch.setattr(instances, "RETRY_S", 0.01)
        monkeypatch.setattr(instances, "LEASE_END_S", 0.5)
        monkeypatch.setattr(instances.VsphereInstances, "_task", locked)
        if goes:
            await target.delete_instance(made.id)
        else:
            with pytest.raises(Conflict, match="disabled"):
                await target.delete_instance(made.id)
        monkeypatch.undo()
        left = {one.kind for one in await target.find_tagged(job)}
        assert (ResourceKind.INSTANCE in left) is not goes
