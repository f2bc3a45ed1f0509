"""What only libvirt does: live change logs over power cycles, foreign jobs, firmware, hostile disks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from coriolis.errors import (
    ChangeLogLost,
    Conflict,
    Corrupt,
    HostileImage,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Unsupported,
)
from coriolis.ids import derived_id, new_id
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag, VolumeRequest
from coriolis.providers.base import Connection, SnapshotSource
from coriolis.providers.libvirt.provider import LibvirtProvider
from tests.contract.case import BLOCK, SIZE, make_image, sample_disk
from tests.contract.site import Site, guest_write
from tests.contract.test_origin import allocated, changed, content
from tests.security import evil_images

pytestmark = pytest.mark.lab
FIRST, SECOND, THIRD = "coriolis-pass-1", "coriolis-pass-2", "coriolis-pass-3"


@pytest.fixture
async def connection(site: Site) -> AsyncIterator[Connection]:
    async with LibvirtProvider().connect(site.connection_info) as opened:
        yield opened


@pytest.fixture
def source(connection: Connection) -> SnapshotSource:
    assert connection.snapshots is not None
    return connection.snapshots


async def test_networks_and_pools_are_described(site: Site, connection: Connection) -> None:
    network = site.connection.networkDefineXML(
        "<network><name>survey</name><forward mode='nat'/><bridge name='virbr77'/><ip address='10.77.0.1' prefix='24'>"
        "<dhcp><range start='10.77.0.10' end='10.77.0.20'/></dhcp></ip></network>"
    )
    path = site.folder / "idle"
    pool = site.connection.storagePoolDefineXML(
        f"<pool type='dir'><name>idle</name><target><path>{path}</path></target></pool>"
    )
    try:
        found = await connection.inventory.configuration()
    finally:
        network.undefine()
        pool.undefine()
    (described,) = [one for one in found.networks if one.name == "survey"]
    assert (described.kind, described.bridge) == ("nat", "virbr77")
    (subnet,) = described.subnets
    assert (subnet.cidr, subnet.gateway, subnet.pools) == ("10.77.0.0/24", "10.77.0.1", (("10.77.0.10", "10.77.0.20"),))
    pools = {one.name: one for one in found.storage_types}
    assert (pools["idle"].usable, pools["idle"].free_bytes) == (False, None)
    default = pools["default"]
    assert (default.kind, default.usable) == ("dir", True)
    assert 0 < (default.free_bytes or 0) <= (default.capacity_bytes or 0)


@pytest.fixture
def domain(site: Site, tmp_path: Path) -> Iterator[Any]:
    make_image(tmp_path / "a.img", sample_disk(1), "qcow2")
    made = site.domain([("vda", "qcow2", tmp_path / "a.img")], start=True)
    yield made
    site.discard(made)


async def test_change_log_survives_shutdown(domain: Any, source: SnapshotSource, site: Site) -> None:
    """Full pass and one delta while it runs, the last delta from the stopped domain's file."""
    truth, uuid = sample_disk(1), domain.UUIDString()
    first = await source.create_snapshot(uuid, FIRST, None)
    replica = bytearray(await content(source, first, "vda"))
    await source.delete_snapshot(uuid, FIRST)
    guest_write(domain, 0, BLOCK, BLOCK, 0x11)
    truth[BLOCK : 2 * BLOCK] = b"\x11" * BLOCK
    second = await source.create_snapshot(uuid, SECOND, FIRST)
    await apply(source, FIRST, second, replica)
    assert replica == truth
    guest_write(domain, 0, 5 * BLOCK, 512, 0x22)  # after the freeze, so for the next pass
    truth[5 * BLOCK : 5 * BLOCK + 512] = b"\x22" * 512
    await source.delete_snapshot(uuid, SECOND)
    domain.destroy()
    third = await source.create_snapshot(uuid, THIRD, SECOND)
    assert third.identity != second.identity
    await apply(source, SECOND, third, replica)
    assert replica == truth
    assert await changed(source, FIRST, third, "vda") != await changed(source, SECOND, third, "vda")
    for _ in range(2):
        await source.delete_change_base(uuid, SECOND)
    with pytest.raises(ChangeLogLost):
        await changed(source, SECOND, await source.create_snapshot(uuid, THIRD, SECOND), "vda")
    await source.delete_change_base(uuid, FIRST)
    assert await source.find_snapshots(uuid) == []
    domain.create()
    again = await source.create_snapshot(uuid, FIRST, SECOND)
    assert await content(source, again, "vda") == truth
    await source.delete_change_base(uuid, FIRST)


async def apply(source: SnapshotSource, base: str, target: Any, replica: bytearray) -> None:
    async with source.open_reader(target, "vda") as reader:
        extents = await changed(source, base, target, "vda")
        assert sum(extent.length for extent in extents) <= 4 * BLOCK
        for extent in extents:
            replica[extent.offset : extent.end] = await reader.read_at(extent.offset, extent.length)


async def test_lost_job_gets_another_identity(domain: Any, source: SnapshotSource) -> None:
    uuid = domain.UUIDString()
    first = await source.create_snapshot(uuid, FIRST, None)
    domain.destroy()
    with pytest.raises(NotFound, match="create it again"):
        await content(source, first, "vda")
    stopped = await source.create_snapshot(uuid, FIRST, None)
    domain.create()
    with pytest.raises(Conflict, match="started"):
        await allocated(source, stopped, "vda")
    again = await source.create_snapshot(uuid, FIRST, None)
    assert len({first.identity, stopped.identity, again.identity}) == 3
    with pytest.raises(NotFound):
        await allocated(source, first, "vda")
    await source.delete_change_base(uuid, FIRST)


async def test_crashed_qemu_loses_the_log_not_the_disk(domain: Any, source: SnapshotSource, site: Site) -> None:
    uuid = domain.UUIDString()
    await source.create_snapshot(uuid, FIRST, None)
    await source.delete_snapshot(uuid, FIRST)
    guest_write(domain, 0, 0, 512, 0x44)
    pid = int((site.folder / "run" / "qemu" / f"{domain.name()}.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    while domain.isActive():  # noqa: ASYNC110 - libvirtd notices
        await asyncio.sleep(0.1)
    stopped = await source.create_snapshot(uuid, SECOND, FIRST)
    with pytest.raises(ChangeLogLost):
        await changed(source, FIRST, stopped, "vda")
    domain.create()
    live = await source.create_snapshot(uuid, SECOND, FIRST)
    with pytest.raises(ChangeLogLost):
        await changed(source, FIRST, live, "vda")
    assert len(await content(source, live, "vda")) == SIZE
    for name in (FIRST, SECOND):
        await source.delete_change_base(uuid, name)
    assert await source.find_snapshots(uuid) == []


async def test_one_job_at_a_time(domain: Any, source: SnapshotSource, tmp_path: Path) -> None:
    uuid = domain.UUIDString()
    await source.create_snapshot(uuid, FIRST, None)
    with pytest.raises(Conflict, match=f"{FIRST}: delete it first"):
        await source.create_snapshot(uuid, SECOND, None)
    await source.delete_snapshot(uuid, SECOND)
    assert domain.backupGetXMLDesc()
    await source.delete_change_base(uuid, FIRST)
    domain.backupBegin(
        f"<domainbackup mode='pull'><server transport='unix' socket='{tmp_path}/f.sock'/><disks>"
        f"<disk name='vda' backup='yes' type='file'><scratch file='{tmp_path}/f'/></disk></disks></domainbackup>",
        None,
    )
    with pytest.raises(Conflict, match="another tool"):
        await source.create_snapshot(uuid, FIRST, None)
    await source.delete_snapshot(uuid, FIRST)
    assert domain.backupGetXMLDesc()  # a foreign job is never ended
    domain.abortJob()


async def test_scratch_space_is_checked(domain: Any, site: Site) -> None:
    info = {**site.connection_info, "min_scratch_free_bytes": 1 << 60}
    async with LibvirtProvider().connect(info) as opened:
        assert opened.snapshots is not None
        with pytest.raises(QuotaExceeded, match="scratch_dir"):
            await opened.snapshots.create_snapshot(domain.UUIDString(), FIRST, None)


async def test_snapshot_names_are_ours(domain: Any, source: SnapshotSource) -> None:
    for name in ("other", "coriolis-../x", "coriolis-a@b", "coriolis-" + "x" * 60):
        with pytest.raises(InvalidInput):
            await source.create_snapshot(domain.UUIDString(), name, None)


@pytest.mark.parametrize("evil", evil_images.references("/etc/hostname"), ids=lambda e: e.name)
async def test_hostile_disk_of_a_stopped_domain(
    evil: evil_images.Evil, site: Site, source: SnapshotSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1 for this provider: refused by us before any tool starts."""
    if evil.stated in ("qed", "vhdx"):
        pytest.skip("libvirt itself refuses the driver type")
    path = tmp_path / "evil.img"
    path.write_bytes(evil.build())
    stated = "vpc" if evil.stated == "vhd" else evil.stated
    made = site.domain([("vda", stated, path)], start=False)
    started: list[object] = []

    async def refuse(*args: object, **_: object) -> None:
        started.append(args)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    try:
        with pytest.raises((HostileImage, Unsupported, Corrupt)):
            await source.create_snapshot(made.UUIDString(), FIRST, None)
        assert started == []
    finally:
        site.discard(made)


async def test_backing_chain_of_a_running_domain(site: Site, source: SnapshotSource, tmp_path: Path) -> None:
    make_image(tmp_path / "base.img", sample_disk(1), "qcow2")
    process = await asyncio.create_subprocess_exec(
        "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(tmp_path / "base.img"),
        str(tmp_path / "top.img"),
    )  # fmt: skip
    assert await process.wait() == 0
    made = site.domain([("vda", "qcow2", tmp_path / "top.img")], start=True)
    try:
        with pytest.raises(Unsupported, match="blockpull"):
            await source.create_snapshot(made.UUIDString(), FIRST, None)
    finally:
        site.discard(made)


async def test_power(domain: Any, connection: Connection) -> None:
    power, uuid = connection.power, domain.UUIDString()
    assert power is not None
    assert await power.power_state(uuid) == "paused"
    await power.start(uuid)
    await power.start(uuid)
    assert await power.power_state(uuid) == "running"
    before = time.monotonic()
    assert await power.shut_down(uuid, 2.0) is False  # firmware does not listen to the button
    assert time.monotonic() - before < 10
    await power.power_off(uuid)
    await power.power_off(uuid)
    assert await power.power_state(uuid) == "stopped"
    assert await power.shut_down(uuid, 1.0) is True
    with pytest.raises(NotFound):
        await power.power_state("no-such")


@pytest.mark.parametrize(("firmware", "bus"), [("EFI", "virtio"), ("BIOS", "sata"), ("BIOS", "scsi")])
async def test_defined_machine_starts(connection: Connection, site: Site, firmware: str, bus: str) -> None:
    job = new_id()
    assert connection.volumes is not None
    assert connection.instances is not None
    tag = Tag(job, "disk-0")
    volume = await connection.volumes.create_volume(VolumeRequest(f"coriolis-{job}-0", SIZE, tag))
    networks = {"a": "user", "b": "none"}
    spec = MachineSpec(
        "o", "o", 1, 64, firmware_type=firmware,  # type: ignore[arg-type]
        devices=Devices(disks=(Disk("d", SIZE),), nics=(Nic("a", "52:54:00:00:00:01"), Nic("b", None))),
    )  # fmt: skip
    environment = {"domain_type": "qemu", "disk_bus": bus}
    request = InstanceRequest(f"m-{job[:8]}", derived_id(job), tag, spec, (volume,), networks, environment)
    await connection.instances.create_instance(request)
    await connection.instances.start(request.instance_id)
    found = await connection.inventory.get_instance(request.name)
    assert (found.firmware_type, found.power_state) == (firmware, "running")
    assert (site.folder / "console" / f"{request.name}-serial0.log").exists()
    await connection.instances.delete_instance(request.instance_id)
    await connection.volumes.delete_volume(volume.id)
    assert await connection.instances.find_tagged(job) == []


async def test_unknown_networks(connection: Connection) -> None:
    assert connection.instances is not None
    spec = MachineSpec("o", "o", 1, 64, devices=Devices(nics=(Nic("lan", None),)))
    for network_map, said in (({}, "no entry"), ({"lan": "no-such-net"}, "does not exist")):
        request = InstanceRequest("m", new_id(), Tag(new_id(), "i"), spec, (), network_map)
        with pytest.raises(InvalidInput, match=said):
            await connection.instances.validate(request)


async def test_domain_type_is_decided_by_a_launch_and_remembered(connection: Connection, site: Site) -> None:
    from coriolis.providers.libvirt.domain_type import decide

    session = connection.instances._session  # type: ignore[union-attr]
    chosen = await session.run(lambda c: decide(c, "auto", str(site.pool_path)))
    assert chosen in ("kvm", "qemu")
    before = time.monotonic()
    assert await session.run(lambda c: decide(c, "auto", str(site.pool_path))) == chosen
    assert time.monotonic() - before < 1
    assert not [d for d in site.connection.listAllDomains() if d.name().startswith("coriolis-probe")]


async def test_foreign_domain_is_never_deleted(domain: Any, connection: Connection) -> None:
    assert connection.instances is not None
    with pytest.raises(Conflict, match="not made by"):
        await connection.instances.delete_instance(domain.UUIDString())
    assert domain.isActive()


_HOLD = """
import asyncio, json, sys
from coriolis.providers.libvirt.provider import LibvirtProvider
async def main():
    async with LibvirtProvider().connect(json.loads(sys.argv[1])) as connection:
        snapshot = await connection.snapshots.create_snapshot(sys.argv[2], "coriolis-pass-1", None)
        async with connection.snapshots.open_reader(snapshot, "vda") as reader:
            await reader.read_at(0, 512)
            print(snapshot.identity, flush=True)
            await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_successor_of_a_killed_child_reconnects(domain: Any, source: SnapshotSource, site: Site) -> None:
    uuid = domain.UUIDString()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLD, json.dumps(site.connection_info), uuid, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    identity = (await child.stdout.readline()).decode().strip()
    child.kill()
    await child.wait()
    guest_write(domain, 0, 0, BLOCK, 0x66)
    again = await source.create_snapshot(uuid, FIRST, None)
    assert again.identity == identity
    assert await content(source, again, "vda") == sample_disk(1)
    await source.delete_change_base(uuid, FIRST)


async def test_replaced_volume_is_refused(connection: Connection, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own qcow2 volume is checked as well before a tool opens it."""
    job = new_id()
    assert connection.volumes is not None
    request = VolumeRequest(f"coriolis-{job}-0", SIZE, Tag(job, "d"), "", {"volume_format": "qcow2"})
    volume = await connection.volumes.create_volume(request)
    Path(volume.attributes["path"]).write_bytes(evil_images.qcow2(backing="/etc/hostname"))
    started: list[object] = []

    async def refuse(*args: object, **_: object) -> None:
        started.append(args)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(HostileImage):
        async with connection.volumes.open_writer(volume.id):
            pass
    assert started == []
    await connection.volumes.delete_volume(volume.id)
