"""The simulated vSphere site is right: freezing, change tracking, sessions, ranges and leases, through plain pyvmomi.

What a test here relies on is told in ``tests/lab/vsphere_phony_cbt.py``; the real vCenter was never asked.
"""

from __future__ import annotations

import http.client
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pyVim.connect import Disconnect
from pyVmomi import vim, vmodl

from coriolis.providers.vmware_vsphere.stream_vmdk import StreamVmdk
from tests.lab.vcsim import PASSWORD, USER
from tests.lab.vsphere_client import Client
from tests.lab.vsphere_machine_spec import LabDisk, LabNic, devices
from tests.lab.vsphere_phony_disks import BLOCK
from tests.lab.vsphere_site import Site, vsphere_site

MIB = 1 << 20


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    with vsphere_site() as site:
        yield site


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    yield whole_site
    whole_site.faults.clear()
    whole_site.vcenter.folder_locks = "live"
    whole_site.lease_timeout(0)


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    client = Client(site)
    yield client
    try:
        Disconnect(client.instance)
    except vmodl.MethodFault:
        pass


def decoded(stream: bytes, piece: int = 100_000) -> bytes:
    vmdk, disk = StreamVmdk(), bytearray()
    for at in range(0, len(stream), piece):
        for grain in vmdk.feed(stream[at : at + piece]):
            disk.extend(bytes(grain.offset - len(disk)))
            disk += grain.data
    vmdk.finish()
    assert vmdk.ended
    return bytes(disk.ljust(vmdk.size_bytes, b"\0"))


def test_machines_as_they_were_asked_for(site: Site, client: Client) -> None:
    site.add_network("VM Network Local")
    identity = site.add_machine(
        "kept / 100% ü",
        [
            MIB,
            LabDisk(b"second", size=2 * MIB),
            LabDisk(size=MIB, bus="sata", thin=False),
            LabDisk(size=MIB, bus="ide"),
        ],
        folder="Über / uns/inner",
        firmware="efi",
        running=True,
        nics_=[LabNic("VM Network Local", "00:50:56:aa:bb:cc"), "DC0_DVPG0"],
        ip="192.0.2.7",
        hostname="kept",
    )
    found = client.values(client.vm(identity), "name", "config.firmware", "guest.net", "runtime.powerState", "parent")
    assert found["name"] == "kept %2f 100%25 ü"
    assert found["config.firmware"] == "efi"
    assert found["runtime.powerState"] == "poweredOn"
    assert found["guest.net"][0].macAddress == "00:50:56:aa:bb:cc"
    assert found["guest.net"][0].ipAddress == ["192.0.2.7"]
    assert client.values(found["parent"], "name")["name"] == "inner"
    disks = client.disks(client.vm(identity))
    assert sorted(disk.key for disk in disks) == [2000, 2001, 3000, 16000]
    assert {disk.backing.thinProvisioned for disk in disks} == {True, False}
    assert len({disk.backing.uuid for disk in disks}) == 4
    assert site.guest_content(identity, 2001)[:6] == b"second"
    site.rename(identity, "another/name")
    assert client.values(client.vm(identity), "name")["name"] == "another%2fname"
    before = client.values(client.vm(identity), "runtime.host")["runtime.host"]
    site.move(identity)
    assert client.values(client.vm(identity), "runtime.host")["runtime.host"] != before
    template = site.add_machine("a template", [MIB], template=True)
    assert client.values(client.vm(template), "config.template")["config.template"]


def test_a_snapshot_freezes_and_its_removal_merges(site: Site, client: Client) -> None:
    content = random.Random(1).randbytes(MIB)
    identity = site.add_machine("frozen", [content, content], running=True)
    vm = client.vm(identity)
    first = client.snapshot(vm, "first")
    site.guest_write(identity, 0, 1000, b"between")
    client.snapshot(vm, "second")
    site.guest_write(identity, 0, 1003, b"AFTER")
    site.guest_write(identity, 1, MIB - 4, b"last")
    between = content[:1000] + b"between" + content[1007:]
    now = between[:1003] + b"AFTER" + between[1008:]
    assert site.flat(identity).read_bytes() == content == site.guest_content(identity, 0, "first")
    assert site.guest_content(identity, 0, "second") == between
    assert site.guest_content(identity) == now
    assert client.disks(vm)[0].backing.fileName.endswith("frozen/disk1-000002.vmdk")
    assert client.disks(vm)[0].backing.parent.parent.fileName.endswith("frozen/disk1.vmdk")
    assert client.disks(first)[0].backing.fileName.endswith("frozen/disk1.vmdk")
    client.done(first.RemoveSnapshot_Task(removeChildren=False))
    assert site.flat(identity).read_bytes() == between == site.guest_content(identity, 0, "second")
    assert site.snapshots(identity) == ["second"]
    client.done(vm.RemoveAllSnapshots_Task())
    assert site.flat(identity).read_bytes() == now
    assert site.flat(identity, 1).read_bytes() == content[:-4] + b"last"
    assert sorted(path.name for path in site.flat(identity).parent.glob("disk1*")) == ["disk1-flat.vmdk", "disk1.vmdk"]


def test_tracking_begins_with_a_stun_and_ends_with_a_reset(site: Site, client: Client) -> None:
    identity = site.add_machine("tracked", [4 * MIB], running=True)
    vm = client.vm(identity)
    early = client.snapshot(vm)
    with pytest.raises(vmodl.MethodFault) as caught:
        vm.QueryChangedDiskAreas(early, 2000, 0, "*")
    assert isinstance(caught.value, vim.fault.FileFault)
    client.done(vm.RemoveAllSnapshots_Task())
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    stun = client.snapshot(vm)
    assert not client.disks(stun)[0].backing.changeId
    client.done(stun.RemoveSnapshot_Task(removeChildren=False))
    first = client.snapshot(vm)
    since = client.disks(first)[0].backing.changeId
    assert len(since.rpartition("/")[0]) == 47
    site.guest_write(identity, 0, 3 * MIB + 5, b"x")
    client.done(first.RemoveSnapshot_Task(removeChildren=False))
    second = client.snapshot(vm)
    assert client.changed(vm, second, 2000, since) == [(3 * MIB, 3 * MIB + BLOCK)]
    for wrong, kind in (("nonsense", vmodl.fault.InvalidArgument), ("52 de/1", vim.fault.FileFault)):
        with pytest.raises(kind):
            vm.QueryChangedDiskAreas(second, 2000, 0, wrong)
    for key, start in ((2001, 0), (2000, 4 * MIB)):
        with pytest.raises(vmodl.fault.InvalidArgument):
            vm.QueryChangedDiskAreas(second, key, start, since)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vm.QueryChangedDiskAreas(first, 2000, 0, since)
    client.done(second.RemoveSnapshot_Task(removeChildren=False))
    site.reset_tracking(identity)
    third = client.snapshot(vm)
    fresh = client.disks(third)[0].backing.changeId
    assert fresh.rpartition("/")[0] != since.rpartition("/")[0]
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(third, 2000, 0, since)
    client.done(third.RemoveSnapshot_Task(removeChildren=False))
    site.grow(identity, 0, 6 * MIB)
    site.guest_write(identity, 0, 5 * MIB, b"grown")
    fourth = client.snapshot(vm)
    assert client.disks(fourth)[0].capacityInBytes == 6 * MIB
    assert client.changed(vm, fourth, 2000, fresh) == [(5 * MIB, 5 * MIB + BLOCK)]


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_changed_is_ever_left_out(site: Site, client: Client, seed: int) -> None:
    """Random writes, snapshots and queries: what is told differs from what was written by whole blocks only."""
    dice = random.Random(seed)
    blocks = 64
    identity = site.add_machine(f"random {seed}", [LabDisk(size=blocks * BLOCK)], running=True, cbt=True)
    vm = client.vm(identity)
    site.machines.over_report = seed % 2
    site.machines.max_areas = dice.choice((1, 2, 16))
    site.machines.max_span = dice.choice((7 * BLOCK + 512, 20 * BLOCK, 1 << 40))
    past: list[tuple[str, bytes]] = []
    written: list[set[int]] = []
    """Blocks since each of ``past``."""
    try:
        for number in range(25):
            for _ in range(dice.randrange(4)):
                offset = dice.randrange(blocks * BLOCK - 3 * BLOCK)
                data = dice.randbytes(dice.choice((1, 512, BLOCK, 2 * BLOCK + 7)))
                site.guest_write(identity, 0, offset, data)
                touched = set(range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1))
                for since in written:
                    since |= touched
            standing = site.snapshots(identity)
            if len(standing) > dice.randrange(3):
                site.remove_snapshot_behind(identity, dice.choice(standing))
            snapshot = client.snapshot(vm, f"s{number}")
            content = site.guest_content(identity, 0, f"s{number}")
            assert content == site.guest_content(identity)
            for (change_id, before), since in list(zip(past, written, strict=True))[-4:]:
                areas = client.changed(vm, snapshot, 2000, change_id)
                told = {block for start, end in areas for block in range(start // BLOCK, -(-end // BLOCK))}
                differ = {
                    at
                    for at in range(blocks)
                    if before[at * BLOCK : (at + 1) * BLOCK] != content[at * BLOCK : (at + 1) * BLOCK]
                }
                assert differ <= since <= told
                if not site.machines.over_report:
                    assert told == since
            allocated = client.changed(vm, snapshot, 2000, "*")
            told = {block for start, end in allocated for block in range(start // BLOCK, -(-end // BLOCK))}
            assert {at for at in range(blocks) if any(content[at * BLOCK : (at + 1) * BLOCK])} <= told
            if change_id := client.disks(snapshot)[0].backing.changeId:
                past.append((change_id, content))
                written.append(set())
            else:
                assert number == 0
    finally:
        site.machines.over_report, site.machines.max_areas, site.machines.max_span = 0, 16, 256 * MIB
    assert len(past) >= 24


def test_ranges_need_a_login_that_lives(site: Site, client: Client) -> None:
    content = random.Random(2).randbytes(3 * MIB)
    path = site.folder_url(site.add_machine("ranges / %", [content]))
    assert client.ask(path, Range="bytes=1000000-1999999") == (206, content[1000000:2000000])
    assert client.ask(path, "HEAD") == (200, b"")
    assert client.ask(path, Range=f"bytes={4 * MIB}-{5 * MIB}")[0] == 416
    assert client.ask(path, cookie="")[0] == 401
    site.expire_sessions()
    assert client.ask(path)[0] == 401
    with pytest.raises(vim.fault.NotAuthenticated):
        client.content.sessionManager.SessionIsActive("x", "y")
    with pytest.raises(vim.fault.NotAuthenticated):
        client.values(client.content.rootFolder, "name")
    client.content.sessionManager.Login(USER, PASSWORD)  # in the same stub, which still sends the dead cookie
    assert client.ask(path, cookie=client.instance._stub.cookie)[0] == 200
    site.expire_after(2)
    for _ in range(2):
        client.values(client.content.rootFolder, "name")
    with pytest.raises(vim.fault.NotAuthenticated):
        client.values(client.content.rootFolder, "name")


def test_extents_of_running_machines_are_locked(site: Site, client: Client) -> None:
    identity = site.add_machine("locked", [MIB])
    path = site.folder_url(identity)
    assert client.ask(path)[0] == 200
    site.power(identity, True)
    assert client.ask(path)[0] == 500
    site.snapshot(identity, "s")
    assert client.ask(path)[0] == 200
    assert client.ask(path.replace("-flat", "-000001-delta"))[0] == 500
    site.vcenter.folder_locks = "chain"
    assert client.ask(path)[0] == 500
    site.power(identity, False)
    assert client.ask(path)[0] == 200


def test_a_lease_carries_the_frozen_bytes_to_an_end_marker(site: Site, client: Client, tmp_path: Path) -> None:
    dice = random.Random(3)
    contents = [dice.randbytes(200_000) + bytes(2 * MIB) + dice.randbytes(824), dice.randbytes(MIB), bytes(MIB)]
    contents = [content.ljust(-(-len(content) // 1024) * 1024, b"\0") for content in contents]
    identity = site.add_machine("leased ü", contents, running=True)
    vm = client.vm(identity)
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ExportVm()
    client.snapshot(vm, "users")
    site.guest_write(identity, 1, 77, b"between")
    snapshot = client.snapshot(vm, "ours")
    site.guest_write(identity, 1, 99, b"after")
    contents[1] = contents[1][:77] + b"between" + contents[1][84:]
    lease = snapshot.ExportSnapshot()
    urls = client.lease(lease)
    assert sorted(urls) == ["disk1-000001.vmdk", "disk2-000001.vmdk", "disk3-000001.vmdk"]
    for path, content in zip((urls[name] for name in sorted(urls)), contents, strict=True):
        status, stream = client.ask(path)
        assert status == 200
        assert decoded(stream) == content
    assert client.ask(path, cookie="")[0] == 401
    (tmp_path / "s.vmdk").write_bytes(client.ask(urls["disk1-000001.vmdk"])[1])
    convert = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(tmp_path / "s.vmdk"), str(tmp_path / "raw")]
    subprocess.run(convert, check=True, timeout=60)
    assert (tmp_path / "raw").read_bytes() == contents[0], "another decoder must agree"
    lease.HttpNfcLeaseProgress(50)
    lease.HttpNfcLeaseComplete()
    assert client.ask(path)[0] == 404
    assert site.count("HttpNfcLeaseProgress") == 1
    site.power(identity, False)
    lease = vm.ExportVm()
    urls = client.lease(lease)
    assert decoded(client.ask(urls["disk2-000002.vmdk"])[1]) == site.guest_content(identity, 1)
    lease.HttpNfcLeaseAbort()


def test_a_lease_without_progress_times_out(site: Site, client: Client) -> None:
    site.lease_timeout(0.5)
    identity = site.add_machine("idle", [MIB])
    lease = client.snapshot(client.vm(identity)).ExportSnapshot()
    path = client.lease(lease)["disk1.vmdk"]
    for _ in range(4):
        time.sleep(0.2)
        lease.HttpNfcLeaseProgress(10)
    assert client.ask(path)[0] == 200
    until = time.monotonic() + 10
    while client.values(lease, "state")["state"] != "error":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert isinstance(client.values(lease, "error")["error"], vim.fault.Timedout)
    assert client.ask(path)[0] == 404
    with pytest.raises(vim.fault.Timedout):
        lease.HttpNfcLeaseProgress(20)


def test_faults_come_when_they_are_asked_for_and_only_then(site: Site, client: Client) -> None:
    content = random.Random(4).randbytes(2 * MIB)
    identity = site.add_machine("faulty", [content])
    path = site.folder_url(identity)
    site.faults.http("GET /folder/faulty", 503, times=2)
    assert [client.ask(path)[0] for _ in range(3)] == [503, 503, 200]
    site.faults.soap("CreateSnapshot_Task", "TaskInProgress")
    with pytest.raises(vim.fault.TaskInProgress):
        client.snapshot(client.vm(identity))
    client.snapshot(client.vm(identity))
    site.faults.cut("GET /folder", after=MIB)
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.ask(path)
    assert caught.value.partial == content[:MIB]
    site.faults.stall("GET /folder", 0.4)
    started = time.monotonic()
    assert client.ask(path) == (200, content)
    assert time.monotonic() - started >= 0.4
    site.faults.slow("GET /folder", 4 * MIB, times=1)
    started = time.monotonic()
    assert client.ask(path) == (200, content)
    assert 0.4 <= time.monotonic() - started < 5
    assert site.faults.pending() == 0
    assert site.calls[-1].request.startswith("GET /folder/faulty/disk1-flat.vmdk")


def test_guests_that_do_not_help(site: Site, client: Client) -> None:
    identity = site.add_machine("unwilling", [MIB], running=True)
    vm = client.vm(identity)
    site.fail_quiesce(identity)
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        client.snapshot(vm, quiesce=True)
    assert site.snapshots(identity) == []
    client.snapshot(vm, "without")
    site.fail_quiesce(identity, False)
    client.snapshot(vm, "with", quiesce=True)
    tree = client.values(vm, "snapshot.rootSnapshotList")["snapshot.rootSnapshotList"]
    assert [tree[0].quiesced, tree[0].childSnapshotList[0].quiesced] == [False, True]
    site.stubborn(identity)
    vm.ShutdownGuest()
    time.sleep(0.1)
    assert site.is_running(identity)
    site.stubborn(identity, False)
    site.set_tools(identity, "none")
    with pytest.raises(vim.fault.ToolsUnavailable):
        vm.ShutdownGuest()
    site.set_tools(identity, "running")
    vm.ShutdownGuest()
    until = time.monotonic() + 10
    while site.is_running(identity):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_import_lease_fills_the_disk(site: Site, client: Client, tmp_path: Path) -> None:
    content = random.Random(5).randbytes(MIB)
    source = site.add_machine("exported", [content])
    lease = client.vm(source).ExportVm()
    stream = client.ask(client.lease(lease)["disk1.vmdk"])[1]
    config = vim.vm.ConfigSpec(
        name="imported",
        guestId="debian12_64Guest",
        files=vim.vm.FileInfo(vmPathName="[LocalDS_0] imported/imported.vmx"),
        deviceChange=devices([LabDisk(size=MIB)], [MIB], "[LocalDS_0] imported"),
    )
    pool = client.values(client.vm(source), "resourcePool")["resourcePool"]
    folder = client.values(client.vm(source), "parent")["parent"]
    incoming = pool.ImportVApp(vim.vm.VmImportSpec(configSpec=config), folder)
    path = client.lease(incoming)["disk1.vmdk"]
    assert client.ask(path, "POST", body=stream)[0] == 200
    incoming.HttpNfcLeaseComplete()
    assert site.guest_content("imported") == content


def test_a_single_host_and_nothing_is_left_behind() -> None:
    with vsphere_site(esx=True) as site:
        client = Client(site)
        identity = site.add_machine("alone", [b"x" * MIB])
        assert client.ask(site.folder_url(identity), Range="bytes=0-2") == (206, b"xxx")
        lease = client.snapshot(client.vm(identity)).ExportSnapshot()
        info = client.values(lease, "info")["info"]
        assert urlsplit(info.deviceUrl[0].url).hostname == "*", "a host says that its address is the one that was used"
        process, directory = site.vcenter.simulator.process, site.vcenter.directory
    assert process.poll() == 0
    assert not directory.exists()
