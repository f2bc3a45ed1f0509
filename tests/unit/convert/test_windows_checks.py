"""What keeps a Windows guest from being converted is found, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from coriolis.convert.windows.checks import version_findings, volume_findings
from coriolis.convert.windows.paths import match_name
from coriolis.convert.windows.registry import Hive
from coriolis.convert.windows.version import WindowsVersion, driver_folder, version_of
from coriolis.convert.windows.volume import VolumeFacts
from coriolis.errors import Corrupt, Unsupported
from tests.lab.phony_windows import hibernation_file
from tests.lab.phony_windows_hives import RELEASES, hive, software_tree, system_tree
from tests.unit.convert.phony_windows_guest import findings, job, windows

SYSTEM = "/c/Windows/System32/config/SYSTEM"
MANAGER = r"ControlSet001\Control\Session Manager"


@pytest.mark.parametrize("name", sorted(RELEASES))
def test_every_release_is_known_by_its_registry(name: str) -> None:
    release = RELEASES[name]
    found = version_of(Hive(hive(software_tree(release))), Hive(hive(system_tree(release))), "ControlSet001")
    assert found.folder == release.folder
    assert found.number == f"{release.major}.{release.minor}.{release.build}"
    assert found.architecture == "amd64"
    assert found.kind == release.kind.lower()
    assert found.has_driver_database == release.is_new
    assert found.product == release.product.replace("10", "11" if name == "win11" else "10")


@pytest.mark.parametrize(
    ("kind", "build", "folder"),
    [
        ("server", 6003, ""),
        ("client", 6002, ""),
        ("server", 17134, "2k16"),
        ("server", 25398, "2k22"),
        ("client", 10240, "w10"),
        ("client", 26200, "w11"),
        ("server", 30000, ""),
        ("client", 0, ""),
    ],
)
def test_builds_between_and_beyond_the_releases(kind: str, build: int, folder: str) -> None:
    assert driver_folder(kind, build) == folder


def version(**changes: object) -> WindowsVersion:
    values = {
        "product": "Windows",
        "kind": "server",
        "major": 10,
        "minor": 0,
        "build": 17763,
        "edition": "",
        "architecture": "amd64",
        "folder": "2k19",
    }
    return WindowsVersion(**{**values, **changes})  # type: ignore[arg-type]


def test_versions_that_are_refused() -> None:
    assert version_findings(version()) == []
    (unknown,) = version_findings(version(folder="", product="Windows\x1b[2J Server", build=6003))
    assert (unknown.severity, unknown.code) == ("error", "WINDOWS_UNKNOWN")
    assert "Windows\\x1b[2J Server (10.0.6003)" in unknown.message
    assert "skip_os_morphing" in unknown.action
    (arm,) = version_findings(version(architecture="arm64"))
    assert (arm.severity, arm.code) == ("error", "ARCHITECTURE_UNKNOWN")
    (old,) = version_findings(version(build=7600, folder="2k8R2"))
    assert (old.severity, old.code) == ("warning", "SERVICE_PACK_ABSENT")


@pytest.mark.parametrize(
    ("facts", "efi", "codes"),
    [
        (VolumeFacts(False, False, "msdos", True), False, []),
        (VolumeFacts(False, False, "gpt", False), True, []),
        (VolumeFacts(True, True, "msdos", True), False, ["VOLUME_DIRTY"]),
        (VolumeFacts(False, True, "msdos", True), False, ["VOLUME_NOT_CLOSED"]),
        (VolumeFacts(False, False, "msdos", False), False, ["NO_ACTIVE_PARTITION"]),
        (VolumeFacts(False, False, "gpt", False), False, ["FIRMWARE_MISMATCH"]),
    ],
)
def test_volumes(facts: VolumeFacts, efi: bool, codes: list[str]) -> None:
    found = volume_findings(facts, efi)
    assert [one.code for one in found] == codes
    assert all(one.severity == "error" and one.action for one in found)


def test_volume_facts_of_the_guest_are_asked_for(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    guest.volume = VolumeFacts(True, False, "msdos", True)
    assert "shutdown /s /f /t 0" in findings(guest, job("hyperv"))["VOLUME_DIRTY"].action


@pytest.mark.parametrize(
    ("head", "refused"), [(b"HIBR", True), (b"hibr", True), (b"WAKE", False), (b"\0\0\0\0", False)]
)
def test_hibernation(tmp_path: Path, head: bytes, refused: bool) -> None:
    guest = windows(tmp_path, "win10")
    guest.write("/c/Hiberfil.sys", head + hibernation_file()[4:])
    found = findings(guest, job("hyperv"))
    assert ("HIBERNATED" in found) == refused
    if refused:
        assert "powercfg /h off" in found["HIBERNATED"].action


def test_pending_checks_and_updates(tmp_path: Path) -> None:
    check = {MANAGER: {"BootExecute": ("multi", [r"autocheck autochk /p \??\C:", "autocheck autochk *"])}}
    assert "CHECK_PENDING" in findings(windows(tmp_path / "1", "win2k19", system=check), job("hyperv"))
    update = {MANAGER: {"SetupExecute": ("multi", [r"C:\Windows\System32\poqexec.exe /noreboot"])}}
    assert "SERVICING_PENDING" in findings(windows(tmp_path / "2", "win2k19", system=update), job("hyperv"))
    guest = windows(tmp_path / "3", "win2k19")
    guest.write("/c/Windows/WinSxS/pending.xml", b"<x/>")
    assert findings(guest, job("hyperv"))["SERVICING_PENDING"].severity == "error"
    sysprep = {"Setup": {"SystemSetupInProgress": 1}}
    found = findings(windows(tmp_path / "4", "win2k19", system=sysprep), job("hyperv"))
    assert found["SETUP_IN_PROGRESS"].severity == "warning"


def test_boot_partition_of_the_other_firmware(tmp_path: Path) -> None:
    found = findings(windows(tmp_path, "win2k19"), job("hyperv", efi=True))["BOOT_FILES_ABSENT"]
    assert found.severity == "error"
    assert "it starts by BIOS" in found.message


def test_boot_store_on_the_windows_drive_itself(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win7")
    guest.write("/c/Boot/BCD", guest.read_at("/system/Boot/BCD", 0, 1 << 20))
    guest.remove("/system/Boot/BCD")
    assert "BOOT_FILES_ABSENT" not in findings(guest, job("hyperv"))


def test_damaged_and_empty_boot_stores_and_lost_loaders(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k22", efi=True)
    guest.write("/system/EFI/Microsoft/Boot/BCD", hive({"Objects": {}}))
    assert "BOOT_STORE_EMPTY" in findings(guest, job("hyperv", efi=True))
    guest.write("/system/EFI/Microsoft/Boot/BCD", b"regf")
    assert "BOOT_STORE_DAMAGED" in findings(guest, job("hyperv", efi=True))
    guest = windows(tmp_path / "2", "win2k22", efi=True)
    guest.remove("/system/EFI/Microsoft/Boot/bootmgfw.efi")
    assert "LOADER_ABSENT" in findings(guest, job("hyperv", efi=True))
    guest.write("/system/EFI/BOOT/BOOTX64.EFI", b"there already")
    assert "LOADER_ABSENT" not in findings(guest, job("hyperv", efi=True))


def test_in_box_drivers_that_are_gone_and_generation_2(tmp_path: Path) -> None:
    gone = {r"ControlSet001\Services\storvsc": {}, r"ControlSet001\Services\vmbus": {}}
    found = findings(windows(tmp_path / "1", "win2k19", system=gone), job("hyperv"))
    assert "storvsc, vmbus" in found["DRIVER_ABSENT"].message
    old = findings(windows(tmp_path / "2", "win2k8r2", efi=True), job("hyperv", efi=True))
    assert old["GENERATION_2"].severity == "error"


def test_a_drive_without_room(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    guest.free = 10 << 20
    assert "10 MiB free" in findings(guest, job("hyperv"))["NO_ROOM"].message


def test_a_directory_that_is_no_pack(tmp_path: Path) -> None:
    found = findings(windows(tmp_path, "win2k19"), job(drivers=tmp_path))
    assert "holds no driver pack" in found["DRIVER_PACK_UNUSABLE"].message
    assert "DRIVER_PACK_ABSENT" not in found


def test_a_sparse_registry_of_10_gib_is_refused_unread(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    guest.truncate(SYSTEM, 10 << 30)
    with pytest.raises(Unsupported, match="has 10737418240 bytes, more than 536870912"):
        findings(guest, job("hyperv"))


def test_a_registry_with_changes_in_its_logs_is_refused(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    head = bytearray(guest.read_at(SYSTEM, 0, 512))
    head[4] += 1
    head[508] ^= head[4] ^ (head[4] - 1)  # the checksum is an XOR
    guest.write_at(SYSTEM, 0, bytes(head))
    with pytest.raises(Unsupported, match="transaction logs: start Windows, shut it down cleanly"):
        findings(guest, job("hyperv"))


@pytest.mark.parametrize("damage", [b"", b"regf", b"not a hive".ljust(9000, b"\0"), b"regf".ljust(9000, b"\1")])
def test_a_damaged_registry_is_corrupt(tmp_path: Path, damage: bytes) -> None:
    guest = windows(tmp_path, "win2k19")
    guest.write(SYSTEM, damage)
    with pytest.raises(Corrupt, match="SYSTEM"):
        findings(guest, job("hyperv"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # hivex 1.3.23 forgets a failed open
def test_a_hive_with_garbage_behind_a_good_head_is_corrupt(tmp_path: Path) -> None:
    guest = windows(tmp_path, "win2k19")
    guest.write_at(SYSTEM, 4096, b"\xff" * 4096)
    with pytest.raises(Corrupt, match="SYSTEM"):
        findings(guest, job("hyperv"))


def test_two_files_that_differ_in_case_only() -> None:
    assert match_name(["SYSTEM32", "other"], "System32") == "SYSTEM32"
    assert match_name(["other"], "System32") is None
    with pytest.raises(Unsupported, match="differ in case only"):
        match_name(["SYSTEM32", "system32"], "System32")
