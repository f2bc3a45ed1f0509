"""What the vSphere provider decides without asking anybody: findings, device URLs, commands, change ids."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from coriolis.errors import ChangeLogLost, Corrupt, NotFound, Unavailable
from coriolis.model.disk import Extent, ExtentKind
from coriolis.model.finding import Severity
from coriolis.providers.vmware_vsphere.change_tracking import areas, comparable, enable, with_holes
from coriolis.providers.vmware_vsphere.export_lease import disk_url
from coriolis.providers.vmware_vsphere.findings import findings
from coriolis.providers.vmware_vsphere.held import last_start
from coriolis.providers.vmware_vsphere.place import Place
from coriolis.providers.vmware_vsphere.snapshots import FrozenDisk, FrozenMachine, frozen_disks
from coriolis.providers.vmware_vsphere.transports import View, flat_file, no_ranges
from coriolis.providers.vmware_vsphere.vddk_disk import VddkDisk, command

Device = vim.vm.device


def disk(key: int = 2000, unit: int = 0, controller: int = 1000, **backing: Any) -> Any:
    plain = Device.VirtualDisk.FlatVer2BackingInfo(
        **{"fileName": f"[ds1] vm/disk{key}.vmdk", "diskMode": "persistent", **backing}
    )
    return Device.VirtualDisk(
        key=key, unitNumber=unit, controllerKey=controller, capacityInBytes=1 << 30, capacityInKB=1 << 20, backing=plain
    )


def controller(key: int = 1000, bus: int = 0, shared: str = "noSharing") -> Any:
    return Device.ParaVirtualSCSIController(key=key, busNumber=bus, sharedBus=shared)


PLAIN = {
    "config.version": "vmx-19",
    "config.guestId": "debian12_64Guest",
    "config.changeTrackingEnabled": True,
    "capability.changeTrackingSupported": True,
    "guest.toolsRunningStatus": "guestToolsRunning",
    "runtime.powerState": "poweredOn",
}


def codes(depth: int = 0, *devices: Any, vddk: bool = False, **changes: Any) -> dict[str, Severity]:
    properties = {**PLAIN, "config.hardware.device": list(devices) or [controller(), disk()]}
    properties |= {name.replace("__", "."): value for name, value in changes.items()}
    found = findings(properties, depth, {"ds1": "VMFS", "ds-vsan": "vsan", "ds-vvol": "VVOL"}, vddk=vddk)
    assert all(one.advice for one in found), "each finding says what to do"
    return {one.code: one.severity for one in found}


def test_a_plain_machine_has_no_findings() -> None:
    assert codes() == {}


def raw(mode: str) -> Any:
    mapped = disk()
    mapped.backing = Device.VirtualDisk.RawDiskMappingVer1BackingInfo(
        fileName="[ds1] vm/lun.vmdk", compatibilityMode=mode, diskMode="persistent"
    )
    return mapped


@pytest.mark.parametrize(
    ("device", "code", "severity"),
    [
        (raw("physicalMode"), "raw_device_mapping", Severity.ERROR),
        (raw("virtualMode"), "raw_device_mapping", Severity.WARNING),
        (disk(diskMode="independent_persistent"), "independent_disk", Severity.ERROR),
        (disk(diskMode="independent_nonpersistent"), "independent_disk", Severity.ERROR),
        (disk(keyId=vim.encryption.CryptoKeyId(keyId="k")), "encrypted_disk", Severity.ERROR),
        (disk(sharing="sharingMultiWriter"), "shared_disk", Severity.ERROR),
        (disk(fileName="[ds-vsan] vm/d.vmdk"), "no_ranges", Severity.WARNING),
        (disk(fileName="[ds-vvol] vm/d.vmdk"), "no_ranges", Severity.WARNING),
        (controller(shared="physicalSharing"), "shared_bus", Severity.ERROR),
        (Device.VirtualPCIPassthrough(key=13000), "passthrough_device", Severity.WARNING),
        (Device.VirtualTPM(key=11000), "virtual_tpm", Severity.WARNING),
    ],
)
def test_devices_that_need_an_answer(device: Any, code: str, severity: Severity) -> None:
    assert codes(0, controller(), device) == {code: severity}


def test_with_vddk_every_datastore_can_be_read() -> None:
    assert codes(0, controller(), disk(fileName="[ds-vsan] vm/d.vmdk"), vddk=True) == {}


@pytest.mark.parametrize(
    ("depth", "changes", "expected"),
    [
        (2, {}, {"has_snapshots": Severity.WARNING}),
        (31, {}, {"snapshot_limit": Severity.ERROR}),
        (0, {"config__changeTrackingEnabled": False}, {"change_tracking_off": Severity.INFO}),
        (
            1,
            {"config__changeTrackingEnabled": False},
            {"has_snapshots": Severity.WARNING, "change_tracking_off": Severity.WARNING},
        ),
        (0, {"config__version": "vmx-04"}, {"no_change_tracking": Severity.WARNING}),
        (0, {"capability__changeTrackingSupported": False}, {"no_change_tracking": Severity.WARNING}),
        (0, {"guest__toolsRunningStatus": "guestToolsNotRunning"}, {"no_tools": Severity.WARNING}),
        (0, {"guest__toolsRunningStatus": "guestToolsNotRunning", "runtime__powerState": "poweredOff"}, {}),
        (0, {"config__guestId": "otherGuest"}, {"unknown_guest": Severity.WARNING}),
        (0, {"config__guestId": "freebsd13_64Guest"}, {"no_conversion": Severity.WARNING}),
        (0, {"runtime__connectionState": "orphaned"}, {"not_connected": Severity.ERROR}),
        (0, {"runtime__connectionState": "inaccessible"}, {"not_connected": Severity.ERROR}),
        (0, {"runtime__connectionState": "connected"}, {}),
        (0, {"runtime__consolidationNeeded": True}, {"needs_consolidation": Severity.WARNING}),
        (0, {"config__template": True, "config__changeTrackingEnabled": False}, {}),
    ],
)
def test_states_that_need_an_answer(depth: int, changes: dict[str, Any], expected: dict[str, Severity]) -> None:
    assert codes(depth, **changes) == expected


def test_a_machine_out_of_reach_is_not_one_without_disks() -> None:
    """Without its ``config`` all that is known of a machine is its name and that it cannot be reached."""
    found = findings({"runtime.connectionState": "inaccessible"}, 0, {}, vddk=False)
    assert found[0].severity is Severity.ERROR
    with pytest.raises(Unavailable, match="reachable"):
        frozen_disks(None)


def url(key: str, target: str = "", *, is_disk: bool = True) -> Any:
    return SimpleNamespace(key=key, targetId=target, disk=is_disk, url=f"https://*/nfc/{target or key}")


DEVICES = [controller(1000, 0), controller(1001, 1), disk(2000, 0, 1000), disk(2016, 0, 1001), disk(2001, 1, 1000)]


def test_the_url_of_a_disk_is_found_by_controller_bus_and_unit() -> None:
    kind = "ParaVirtualSCSIController"
    urls = [
        url("/vm-1/nvram", is_disk=False),
        *(url(f"/vm-1/{kind}{place}", "x") for place in ("1:0", "0:1", "0:0")),
    ]
    found = {key: disk_url(urls, DEVICES, key).key for key in ("2000", "2001", "2016")}
    assert found == {"2000": f"/vm-1/{kind}0:0", "2001": f"/vm-1/{kind}0:1", "2016": f"/vm-1/{kind}1:0"}


def test_or_by_its_file_or_by_its_place() -> None:
    named = [url("/vm/disk:1", "disk2016.vmdk"), url("/vm/disk:0", "disk2000.vmdk"), url("/vm/disk:2", "disk2001.vmdk")]
    assert disk_url(named, DEVICES, "2001").targetId == "disk2001.vmdk"
    ordered = [url("a"), url("b"), url("c")]
    assert [disk_url(ordered, DEVICES, key).key for key in ("2000", "2001", "2016")] == ["a", "b", "c"]
    with pytest.raises(Corrupt, match="2 disks of a machine with 3"):
        disk_url(ordered[:2], DEVICES, "2001")
    for urls, key in (([], "2000"), (ordered, "2999")):
        with pytest.raises(NotFound):
            disk_url(urls, DEVICES, key)


def test_the_password_is_in_no_argument() -> None:
    one = VddkDisk(Path("/opt/vddk"), "vc", 8443, "root", "AA:BB", "vm-1", "snapshot-2", "[ds 1] a b/a b.vmdk")
    argv = command(one, "/run/s", 7)
    assert argv[argv.index("vddk") + 1 :] == [
        "libdir=/opt/vddk",
        "server=vc",
        "port=8443",
        "thumbprint=AA:BB",
        "user=root",
        "password=-7",
        "vm=moref=vm-1",
        "snapshot=snapshot-2",
        "transports=file:san:hotadd:nbdssl:nbd",
        "file=[ds 1] a b/a b.vmdk",
    ]
    off = command(VddkDisk(Path("/opt/vddk"), "vc", 8443, "root", "AA:BB", "vm-1", "", "[ds] f.vmdk"), "/run/s", 7)
    assert not any(option.startswith("snapshot=") for option in off)


def view(**changes: Any) -> View:
    one = FrozenDisk(**{"disk_id": "2000", "size_bytes": 1, "file": "[ds1] vm/d.vmdk", "change_id": "", **changes})
    return View(FrozenMachine("vm-1", "", "", (one,)), one, Place("DC", "h", {"ds1": "VMFS", "v": "vsan"}))


def test_which_disks_have_a_flat_extent() -> None:
    assert no_ranges(view()) == ""
    assert "chain" in no_ranges(view(chained=True))
    assert "vSAN" in no_ranges(view(file="[v] vm/d.vmdk"))
    assert "LUN" in no_ranges(view(kind="raw_mapping"))
    assert flat_file("[ds1] a.vmdk/a.vmdk") == "[ds1] a.vmdk/a-flat.vmdk"


def test_change_ids_of_another_tracking_are_not_compared() -> None:
    assert comparable("52 aa-bb/7", "52 aa-bb/12")
    assert not comparable("52 aa-bb/7", "52 cc-dd/12")
    assert not comparable("", "52 aa-bb/12")
    assert not comparable("52 aa-bb/12", "")


class PhonyTracker:
    """Answers ``QueryChangedDiskAreas`` from a list of (covered length, areas)."""

    def __init__(self, *answers: tuple[int, list[tuple[int, int]]]) -> None:
        self.answers = list(answers)

    def QueryChangedDiskAreas(self, *, startOffset: int, **_: Any) -> Any:  # noqa: N802, N803 - the API's names
        covered, found = self.answers.pop(0)
        changed = [SimpleNamespace(start=start, length=length) for start, length in found]
        return SimpleNamespace(startOffset=startOffset, length=covered, changedArea=changed)


def test_answers_are_read_until_the_disk_is_covered() -> None:
    tracker = PhonyTracker((100, [(10, 20), (25, 10)]), (100, []), (200, [(190, 30), (390, 50)]))
    found = list(areas(tracker, None, 2000, "u/1", 0, 400))
    assert found == [Extent(10, 20), Extent(30, 5), Extent(190, 30), Extent(390, 10)]


def test_a_server_that_does_not_move_on_is_stopped() -> None:
    with pytest.raises(Corrupt, match="does not get beyond 100"):
        list(areas(PhonyTracker((100, []), (0, [])), None, 2000, "u/1", 0, 400))


@pytest.mark.parametrize("fault", [vim.fault.FileFault(), vim.fault.FileNotFound(), vmodl.fault.InvalidArgument()])
def test_a_log_that_cannot_be_read_is_lost(fault: Exception) -> None:
    class Refusing:
        def QueryChangedDiskAreas(self, **_: Any) -> Any:  # noqa: N802 - the API's name
            raise fault

    with pytest.raises(ChangeLogLost, match="cannot be read"):
        list(areas(Refusing(), None, 2000, "u/1", 0, 400))


def test_holes_are_what_is_between() -> None:
    hole = ExtentKind.HOLE
    assert list(with_holes([Extent(10, 5), Extent(15, 5)], 0, 30)) == [
        Extent(0, 10, hole),
        Extent(10, 5),
        Extent(15, 5),
        Extent(20, 10, hole),
    ]
    assert list(with_holes([], 5, 5)) == []


class PhonyEvents:
    """Of one machine, found by the exact names of their types, as a vCenter does; vcsim matches base types too."""

    def __init__(self, *events: Any) -> None:
        self.events = events

    def QueryEvents(self, chosen: Any) -> list[Any]:  # noqa: N802 - the API's name
        return [one for one in self.events if type(one).__name__.rpartition(".")[2] in chosen.eventTypeId]


@pytest.mark.parametrize(
    "kind", [vim.event.VmPoweredOnEvent, vim.event.DrsVmPoweredOnEvent, vim.event.VmRestartedOnAlternateHostEvent]
)
def test_whoever_started_a_machine_its_disks_count_as_changed(kind: Any) -> None:
    vm = vim.VirtualMachine("vm-1")
    before = kind(key=1, createdTime=datetime(2026, 11, 1, tzinfo=UTC))
    again = kind(key=2, createdTime=datetime(2026, 11, 2, tzinfo=UTC))
    off = vim.event.VmPoweredOffEvent(key=3, createdTime=datetime(2026, 11, 3, tzinfo=UTC))
    states = [
        last_start(SimpleNamespace(eventManager=PhonyEvents(*events)), vm)
        for events in ((off,), (before, off), (before, again, off))
    ]
    assert len(set(states)) == 3


class PhonyCollector:
    """Of properties of one object that are set; the others have no answer, as with a vCenter."""

    def __init__(self, **values: Any) -> None:
        self.values = {name.replace("__", "."): value for name, value in values.items()}

    def RetrievePropertiesEx(self, wanted: Any, _: Any) -> Any:  # noqa: N802 - the API's name
        paths = wanted[0].propSet[0].pathSet
        found = [SimpleNamespace(name=name, val=value) for name, value in self.values.items() if name in paths]
        return SimpleNamespace(objects=[SimpleNamespace(obj=None, propSet=found)], token=None)


def test_tracking_is_left_alone_when_snapshots_stand_beside_the_present_state() -> None:
    """``currentSnapshot`` is "empty when the working snapshot is at the root of the snapshot tree" (API reference)."""
    stands = vim.vm.SnapshotTree(name="younger")
    content = SimpleNamespace(propertyCollector=PhonyCollector(snapshot__rootSnapshotList=[stands]))
    assert not enable(content, vim.VirtualMachine("vm-1"))
