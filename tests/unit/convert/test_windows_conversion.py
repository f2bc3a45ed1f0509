"""Phony Windows guests converted end to end; registry entries and files looked at one by one."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest

from coriolis.convert.plugin import Facts, Nic, Script
from coriolis.convert.plugins import convert_guest
from coriolis.convert.windows import boot_files
from coriolis.convert.windows.platform_needs import NEEDS
from coriolis.convert.windows.plugin import WindowsPlugin
from coriolis.convert.windows.registry import Edit, Hive, dword, expand_sz, load, multi_sz, store, sz
from coriolis.errors import Corrupt, Unsupported
from tests.lab.phony_windows_drivers import driver_files
from tests.lab.phony_windows_hives import BOOT_MANAGER, LOADER, RELEASES, SCSI, TOOLS
from tests.unit.convert.phony_windows_guest import changed_manifest, converted, findings, job, pack, windows

DRIVERS = "/c/Windows/Drivers/VirtIO"
FIRST_BOOT = "/c/Program Files/Coriolis/firstboot"
FULL_IDS = {
    "viostor": ["VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"],
    "vioscsi": ["VEN_1AF4&DEV_1004&SUBSYS_00081AF4&REV_00", "VEN_1AF4&DEV_1048&SUBSYS_11001AF4&REV_01"],
}
IDS = {
    "viostor": [*FULL_IDS["viostor"], "VEN_1AF4&DEV_1001", "VEN_1AF4&DEV_1042"],
    "vioscsi": [*FULL_IDS["vioscsi"], "VEN_1AF4&DEV_1004", "VEN_1AF4&DEV_1048"],
}
BUS_TYPE = {"viostor": 1, "vioscsi": 10}


@pytest.mark.parametrize(("name", "efi"), [("win2k8r2", False), ("win2k19", False), ("win2k22", True)])
def test_three_generations_from_vmware_to_kvm(tmp_path: Path, name: str, efi: bool) -> None:
    release = RELEASES[name]
    guest = windows(tmp_path, name, efi=efi)
    before = load(guest, "/c/Windows/System32/config/SYSTEM")

    state, facts, _ = converted(guest, job(drivers=pack(tmp_path, [release.folder]), efi=efi))

    system, software = state.system, state.software
    for control_set in ("ControlSet001", "ControlSet002"):
        for driver in ("viostor", "vioscsi"):
            service = rf"{control_set}\Services\{driver}"
            assert system.number(service, "Type") == 1
            assert system.number(service, "Start") == 0
            assert system.number(service, "ErrorControl") == 1
            assert system.text(service, "Group") == "SCSI miniport"
            assert system.get(service, "ImagePath") == expand_sz(rf"system32\drivers\{driver}.sys")
            assert system.number(rf"{service}\Parameters", "BusType") == BUS_TYPE[driver]
            assert system.number(rf"{service}\Parameters\PnpInterface", "5") == 1
        assert system.number(rf"{control_set}\Control\CrashControl", "AutoReboot") == 0
        for agent in ("VMTools", "vmci", "vsock", "vmhgfs"):
            assert system.number(rf"{control_set}\Services\{agent}", "Start") == 4
        assert system.number(rf"{control_set}\Services\pvscsi", "Start") == 0, "with it the machine can go back"
        assert system.number(rf"{control_set}\Services\vmxnet3", "Start") == 3

    critical = r"ControlSet001\Control\CriticalDeviceDatabase"
    for driver, devices in IDS.items():
        for device in devices:
            if release.is_new:
                _assert_in_driver_database(system, driver, device)
            else:
                assert system.text(rf"{critical}\PCI#{device}", "Service") == driver
                assert system.text(rf"{critical}\PCI#{device}", "ClassGUID") == SCSI
    assert system.has(critical) != release.is_new
    assert system.has("DriverDatabase") == release.is_new
    assert software.get(r"Microsoft\Windows\CurrentVersion", "DevicePath") == expand_sz(
        r"%SystemRoot%\inf;%SystemRoot%\Drivers\VirtIO"
    )

    service = r"ControlSet001\Services\CoriolisFirstBoot"
    assert system.number(service, "Type") == 0x10
    assert system.number(service, "Start") == 2
    assert system.number(service, "ErrorControl") == 0
    assert system.text(service, "ObjectName") == "LocalSystem"
    assert system.get(service, "DependOnService") == multi_sz(["RpcSs"])
    assert system.text(service, "ImagePath").endswith(
        r'/d /c call "%SystemDrive%\Program Files\Coriolis\firstboot\firstboot.cmd"'
    )
    # nothing else: what was there and is not named above is as it was
    assert system.text(r"ControlSet001\Services\Tcpip\Parameters", "Hostname") == "winsrc"
    assert system.get("Setup", "SetupType") == before.get("Setup", "SetupType") == dword(0)

    for driver, stem in (("viostor", "viostor"), ("vioscsi", "vioscsi"), ("NetKVM", "netkvm"), ("vioserial", "vioser")):
        files = driver_files(driver)
        for ending in ("sys", "inf", "cat"):
            assert guest.read_at(f"{DRIVERS}/{stem}.{ending}", 0, 9999) == files[f"{stem}.{ending}"]
        assert guest.read_at(f"/c/Windows/System32/drivers/{stem}.sys", 0, 9999) == files[f"{stem}.sys"]
    assert not guest.is_file(f"{DRIVERS}/viostor.pdb")
    scripts = ["100-drivers.ps1", "300-origin-agents.ps1", "400-qemu-guest-agent.ps1"]
    assert guest.listdir(f"{FIRST_BOOT}/scripts") == scripts
    assert facts.way == "offline"
    assert set(facts.modules) == {"viostor", "vioscsi"}

    assert guest.is_file("/system/EFI/Boot/bootx64.efi") == efi
    bcd = load(guest, "/system/EFI/Microsoft/Boot/BCD" if efi else "/system/Boot/BCD")
    assert bcd.has(rf"Objects\{LOADER}\Elements\16000046") != efi
    assert bcd.text(rf"Objects\{LOADER}\Elements\12000004", "Element") == "Windows"
    if efi:
        loader = guest.read_at("/system/EFI/Microsoft/Boot/bootmgfw.efi", 0, 9999)
        assert guest.read_at("/system/EFI/Boot/bootx64.efi", 0, 9999) == loader


def _assert_in_driver_database(system: Hive, driver: str, device: str) -> None:
    inf, package, configuration = f"coriolis_{driver}.inf", f"coriolis_{driver}.inf_tmp", f"coriolis_{driver}_conf"
    assert system.get(rf"DriverDatabase\DriverInfFiles\{inf}", "") == multi_sz([package])
    assert system.get(rf"DriverDatabase\DriverInfFiles\{inf}", "Active") == sz(package)
    assert system.get(rf"DriverDatabase\DriverInfFiles\{inf}", "Configurations") == multi_sz([configuration])
    entry = system.get(rf"DriverDatabase\DeviceIds\PCI\{device}", inf)
    assert entry is not None
    assert (entry.kind, entry.data) == (3, b"\x01\xff\x00\x00")
    top = rf"DriverDatabase\DriverPackages\{package}"
    version = system.get(top, "Version")
    assert version is not None
    assert version.data == b"\x00\xff\x09" + bytes(5) + uuid.UUID(SCSI).bytes_le + bytes(24)
    assert system.number(rf"{top}\Configurations\{configuration}", "ConfigFlags") == 0
    assert system.text(rf"{top}\Configurations\{configuration}", "Service") == driver
    assert system.text(rf"{top}\Descriptors\PCI\{device}", "Configuration") == configuration


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_every_release_gets_the_drivers_of_its_own_folder(tmp_path: Path, name: str) -> None:
    guest = windows(tmp_path, name)
    folder = RELEASES[name].folder
    assert findings(guest, job(drivers=pack(tmp_path, [folder]))).keys() <= {"CLOUDBASE_ABSENT", "ADDRESSES_UNUSED"}
    other = next(one.folder for one in RELEASES.values() if one.folder != folder)
    refused = findings(guest, job(drivers=pack(tmp_path / "other", [other])))["DRIVER_ABSENT"]
    assert f"viostor, vioscsi, NetKVM for {folder}/amd64" in refused.message


def test_a_32_bit_windows_gets_32_bit_drivers_or_is_refused(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win7", architecture="x86")
    converted(guest, job(drivers=pack(tmp_path, ["w7"])))
    assert guest.read_at(f"{DRIVERS}/viostor.sys", 0, 9999) == driver_files("viostor", "x86")["viostor.sys"]
    server = windows(tmp_path / "server", "win2k8r2", architecture="x86")
    assert "2k8R2/x86" in findings(server, job(drivers=pack(tmp_path / "pack", ["2k8R2"])))["DRIVER_ABSENT"].message


def test_a_refused_guest_is_not_touched(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    before = {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()}
    with pytest.raises(Unsupported, match="given no virtio-win ISO: set the path"):
        convert_guest(guest, job(), lambda text: None)
    assert {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()} == before


def test_converted_twice_it_is_the_same(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    what = job(drivers=pack(tmp_path, ["2k19"]))
    converted(guest, what)
    guest.write(f"{FIRST_BOOT}/done/100-drivers.ps1", b"ran at its last migration")
    guest.write(f"{FIRST_BOOT}/scripts/999-of-another-job.cmd", b"")
    state, _, _ = converted(guest, what)
    path = state.software.text(r"Microsoft\Windows\CurrentVersion", "DevicePath")
    assert path.count("VirtIO") == 1
    assert guest.listdir(f"{FIRST_BOOT}/done") == []
    assert "999-of-another-job.cmd" not in guest.listdir(f"{FIRST_BOOT}/scripts")


@pytest.mark.parametrize(
    ("platform", "name", "services"),
    [
        ("hyperv", "win2k19", ("storvsc", "vmbus", "atapi", "intelide")),
        ("azure", "win2k8r2", ("storvsc", "vmbus", "atapi")),
        ("vmware", "win2k19", ("LSI_SAS", "stornvme")),
    ],
)
def test_platforms_with_drivers_in_windows_need_no_pack(
    tmp_path: Path, platform: str, name: str, services: tuple[str, ...]
) -> None:
    guest = windows(tmp_path, name)
    state, facts, _ = converted(guest, job(platform))
    for control_set in ("ControlSet001", "ControlSet002"):
        for service in services:
            assert state.system.number(rf"{control_set}\Services\{service}", "Start") == 0
    if platform == "vmware":
        assert not state.system.has(r"ControlSet001\Services\LSI_SAS\StartOverride"), "it would keep the driver off"
        assert state.system.number(r"ControlSet001\Services\VMTools", "Start") == 2, "it is at home there"
    else:
        assert state.system.number(r"ControlSet001\Services\VMTools", "Start") == 4
    if name == "win2k8r2":
        key = r"ControlSet001\Control\CriticalDeviceDatabase\VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}"
        assert state.system.text(key, "Service") == "storvsc"
    assert not state.system.has(r"ControlSet001\Services\viostor")
    assert facts.modules == list(NEEDS[platform].in_box)


def test_aws_takes_the_network_driver_from_the_bundle(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k16")
    bundle = tmp_path / "bundle"
    assert "windows/drivers/aws/amd64" in findings(guest, job("aws", bundle=str(bundle)))["DRIVER_BUNDLE_ABSENT"].action
    top = bundle / "windows/drivers/aws/amd64"
    top.mkdir(parents=True)
    for ending in ("inf", "sys", "cat"):
        (top / f"ena.{ending}").write_text(ending)
    state, _, _ = converted(guest, job("aws", bundle=str(bundle)))
    assert state.system.number(r"ControlSet001\Services\stornvme", "Start") == 0
    assert guest.read_at(f"{DRIVERS}/ena.inf", 0, 99) == b"inf"
    assert guest.is_file(f"{FIRST_BOOT}/scripts/100-drivers.ps1")
    old = windows(tmp_path / "old", "win2k12")
    assert "no NVMe driver" in findings(old, job("aws", bundle=str(bundle)))["WINDOWS_TOO_OLD"].message


def test_what_the_first_boot_runs(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    installer = tmp_path / "bundle/windows/cloudbase-init/amd64/CloudbaseInitSetup_x64.msi"
    installer.parent.mkdir(parents=True)
    installer.write_bytes(b"msi")
    scripts = (
        Script("replica_first_boot", "global", "Write-Output 'für alle'\n"),
        Script("replica_first_boot", "instance", "@echo off\nver\n"),
        Script("osmorphing_post_os_mount", "global", "true"),
    )
    nic = Nic("00:50:56:b2:a1:c8")
    what = job(
        "openstack",
        drivers=pack(tmp_path, ["2k19"]),
        bundle=str(tmp_path / "bundle"),
        scripts=scripts,
        nics=(nic,),
    )
    _, facts, plan = converted(guest, what)

    def script(name: str) -> str:
        data = guest.read_at(f"{FIRST_BOOT}/scripts/{name}", 0, 99_999)
        assert b"\n" not in data.replace(b"\r\n", b"")
        return data.decode("utf-8-sig")

    assert guest.listdir(f"{FIRST_BOOT}/scripts") == [
        "100-drivers.ps1",
        "200-network.ps1",
        "300-origin-agents.ps1",
        "400-qemu-guest-agent.ps1",
        "500-cloudbase-init.ps1",
        "600-user.ps1",
        "601-user.cmd",
    ]
    assert "pnputil.exe" in script("100-drivers.ps1")
    assert "address=192.168.77.20 mask=255.255.255.0 gateway=192.168.77.1" in script("200-network.ps1")
    assert "'00:50:56:B2:A1:C8'" in script("200-network.ps1")
    assert script("300-origin-agents.ps1").count("msiexec") == 1
    assert f"/x {TOOLS.upper()} /qn" in script("300-origin-agents.ps1")
    assert "packages\\qemu-ga.msi" in script("400-qemu-guest-agent.ps1")
    assert "configdrive.ConfigDriveService,cloudbaseinit.metadata.services.httpservice" in script(
        "500-cloudbase-init.ps1"
    )
    assert "für alle" in script("600-user.ps1")
    assert script("601-user.cmd") == "@echo off\r\nver\r\n"
    assert guest.read_at(f"{FIRST_BOOT}/packages/cloudbase-init.msi", 0, 99) == b"msi"
    assert guest.is_file(f"{FIRST_BOOT}/packages/qemu-ga.msi")
    assert facts.pins == [("00:50:56:b2:a1:c8", "192.168.77.20/24")]
    assert [one.code for one in plan.findings] == ["SCRIPT_PHASE"]


def test_without_powershell_the_first_boot_is_refused(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k8r2")
    guest.remove("/c/Windows/System32/WindowsPowerShell/v1.0/powershell.exe")
    assert "100-drivers.ps1" in findings(guest, job(drivers=pack(tmp_path, ["2k8R2"])))["POWERSHELL_ABSENT"].message


def test_names_are_found_in_any_case(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    guest.rename("/c/Windows", "/c/WINDOWS")
    guest.rename("/c/WINDOWS/System32/drivers", "/c/WINDOWS/System32/DRIVERS")
    converted(guest, job(drivers=pack(tmp_path, ["2k19"])))
    assert guest.is_file("/c/WINDOWS/System32/DRIVERS/viostor.sys")
    assert guest.listdir("/c") == ["Program Files", "WINDOWS", "pagefile.sys"]


def test_only_changed_pages_of_a_hive_are_written(tmp_path: Path) -> None:
    filler = {rf"Classes\Phony{number}": {"Text": "x" * 900} for number in range(2000)}
    guest = windows(tmp_path, "win2k19", software=filler)
    path = "/c/Windows/System32/config/SOFTWARE"
    hive = load(guest, path)
    hive.apply([Edit(r"Microsoft\Windows\CurrentVersion", "DevicePath", expand_sz("changed"))])
    assert len(hive.original) > 3 << 20
    assert store(guest, path, hive) < 64 << 10
    assert load(guest, path).text(r"Microsoft\Windows\CurrentVersion", "DevicePath") == "changed"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Edit(r"ControlSet001\Services\viostor", "Start", dword(3)), r"ControlSet001\\\\Services\\\\viostor"),
        (Edit(r"ControlSet002\Services\CoriolisFirstBoot", "Start", dword(4)), "CoriolisFirstBoot"),
        (Edit(r"ControlSet001\Services\viostor\StartOverride", "0", dword(3)), "StartOverride"),
        (Edit(r"DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1048", "coriolis_vioscsi.inf", sz("")), "DEV_1048"),
    ],
)
def test_verify_notices_a_registry_entry_that_is_not_there(tmp_path: Path, edit: Edit, why: str) -> None:
    guest = windows(tmp_path, "win2k19")
    what = job(drivers=pack(tmp_path, ["2k19"]))
    state, _, _ = converted(guest, what)
    state.system.apply([edit])
    store(guest, "/c/Windows/System32/config/SYSTEM", state.system)
    plugin = WindowsPlugin()
    system = plugin.detect(guest)
    assert system is not None
    with pytest.raises(Corrupt, match=why):
        plugin.verify(guest, system, what, Facts(), lambda text: None)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/c/Windows/System32/drivers/viostor.sys", "viostor.sys is not what was written"),
        (f"{FIRST_BOOT}/run.ps1", "run.ps1 is not what was written"),
        (f"{FIRST_BOOT}/scripts/050-another.cmd", "other scripts"),
    ],
)
def test_verify_notices_a_file_that_differs(tmp_path: Path, path: str, why: str) -> None:
    guest = windows(tmp_path, "win2k19")
    what = job(drivers=pack(tmp_path, ["2k19"]))
    converted(guest, what)
    guest.write(path, b"something else")
    plugin = WindowsPlugin()
    system = plugin.detect(guest)
    assert system is not None
    with pytest.raises(Corrupt, match=why):
        plugin.verify(guest, system, what, Facts(), lambda text: None)


def test_a_pack_whose_file_changed_is_noticed(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    drivers = pack(tmp_path, ["2k19"])
    (drivers / "viostor/2k19/amd64/viostor.sys").write_bytes(b"MZ another")
    with pytest.raises(Corrupt, match=r"viostor\.sys of the driver pack is not what its manifest says"):
        convert_guest(guest, job(drivers=drivers), lambda text: None)


def test_an_unsigned_boot_driver_is_a_warning(tmp_path: Path) -> None:
    drivers = pack(tmp_path, ["2k19"])

    def unsigned(document: dict[str, list[dict[str, object]]]) -> None:
        for one in document["drivers"]:
            one["embedded_signature"] = False

    changed_manifest(drivers, unsigned)
    found = findings(windows(tmp_path, "win2k19"), job(drivers=drivers))
    assert found["DRIVER_SIGNATURE"].severity == "warning"


def test_digests_in_the_manifest_are_those_of_the_files(tmp_path: Path) -> None:
    def check(document: dict[str, list[dict[str, dict[str, dict[str, str]]]]]) -> None:
        for one in document["drivers"]:
            for name, file in one["files"].items():
                where = f"{one['driver']}/{one['folder']}/{one['architecture']}/{name}"
                assert hashlib.sha256((drivers / where).read_bytes()).hexdigest() == file["sha256"]
        assert len(document["drivers"]) == 6

    drivers = pack(tmp_path, ["2k19"])
    changed_manifest(drivers, check)


def test_the_boot_manager_of_the_phony_store_is_windows_own() -> None:
    assert boot_files.BOOT_MANAGER == BOOT_MANAGER
