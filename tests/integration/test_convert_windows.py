"""Phony Windows guests on real NTFS through the real appliance. No real Windows was ever started from the result."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from coriolis.convert.convert import convert
from coriolis.convert.driver_pack import prepare_driver_pack
from coriolis.convert.request import ConversionRequest, ConversionResult, ConversionSettings, NicIdentity
from coriolis.convert.windows.registry import Hive
from coriolis.errors import Unsupported
from tests.lab.file_volume import FileVolume
from tests.lab.phony_windows import files_of, hibernation_file
from tests.lab.phony_windows_disk import BOOT_SECTOR, DRIVE_SECTOR, SECTOR, make_disk
from tests.lab.phony_windows_drivers import driver_files, make_iso
from tests.lab.phony_windows_hives import RELEASES

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

MAC = "00:50:56:b2:a1:c8"


def converted(replica: Path, efi: bool, top: Path, folder: str) -> tuple[ConversionResult, Path]:
    """Convert into a copy of ``replica``, with the pack of a phony ISO."""
    iso, volume = top / "virtio-win.iso", top / "volume.raw"
    make_iso(iso, top / "iso", [folder])
    subprocess.run(["cp", "--sparse=always", replica, volume], check=True)
    request = ConversionRequest("windows", "kvm", "EFI" if efi else "BIOS", "replica-1", (NicIdentity(MAC),))
    settings = ConversionSettings(accelerator="tcg", drivers_dir=prepare_driver_pack(iso, top / "state"))
    reader, writer = FileVolume(replica), FileVolume(volume, writable=True)
    try:
        work = convert(request, [reader], [writer], top / "work", print, settings=settings)
        return asyncio.run(work), volume
    finally:
        reader.close()
        writer.close()


def ntfs_file(disk: Path, efi: bool, name: str) -> bytes:
    """A file of the Windows drive, read by ntfs-3g's own tool and not by what wrote it."""
    part = disk.with_suffix(".ntfs")
    if not part.exists():
        cut = ["dd", f"if={disk}", f"of={part}", "bs=1M", "conv=sparse", "iflag=skip_bytes"]
        subprocess.run([*cut, f"skip={DRIVE_SECTOR[efi] * SECTOR}"], check=True, stderr=subprocess.DEVNULL)
    return subprocess.run(["ntfscat", "-f", part, name], check=True, stdout=subprocess.PIPE).stdout


def assert_converted(disk: Path, efi: bool, name: str) -> None:
    """The result on the volume itself, after the delta was written to it."""
    system = Hive(ntfs_file(disk, efi, "Windows/System32/config/SYSTEM"))
    for driver in ("viostor", "vioscsi"):
        assert system.number(rf"ControlSet001\Services\{driver}", "Start") == 0
        content = driver_files(driver)[f"{driver}.sys"]
        assert ntfs_file(disk, efi, f"Windows/System32/drivers/{driver}.sys") == content
        assert ntfs_file(disk, efi, f"Windows/Drivers/VirtIO/{driver}.sys") == content
    if RELEASES[name].is_new:
        assert system.has(r"DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01")
    else:
        critical = r"ControlSet001\Control\CriticalDeviceDatabase"
        assert system.text(rf"{critical}\PCI#VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01", "Service") == "viostor"
    script = ntfs_file(disk, efi, "Program Files/Coriolis/firstboot/scripts/200-network.ps1")
    assert b"address=192.168.77.20 mask=255.255.255.0 gateway=192.168.77.1" in script


def test_a_uefi_guest_becomes_one_with_virtio(tmp_path: Path) -> None:
    replica, files = tmp_path / "replica.raw", files_of("win2k22", efi=True)
    make_disk(replica, files, efi=True)
    result, volume = converted(replica, True, tmp_path, "2k22")
    assert result.summary.system.os_type == "windows"
    assert result.summary.system.title == "Windows Server 2022 Standard"
    assert result.summary.done.modules == ("viostor", "vioscsi")
    assert result.summary.done.pins == ((MAC, "192.168.77.20/24"),)
    assert result.disks[0].data_bytes < 1 << 20, "hives are not written whole"
    assert_converted(volume, True, "win2k22")
    loader = ["mtype", "-i", f"{volume}@@{BOOT_SECTOR * SECTOR}", "::/EFI/Boot/bootx64.efi"]
    assert (
        subprocess.run(loader, check=True, stdout=subprocess.PIPE).stdout
        == (files["/system/EFI/Microsoft/Boot/bootmgfw.efi"])
    )


@pytest.mark.full
@pytest.mark.parametrize("name", ["win2k8r2", "win2k19"])
def test_bios_guests(tmp_path: Path, name: str) -> None:
    make_disk(tmp_path / "replica.raw", files_of(name), efi=False)
    result, volume = converted(tmp_path / "replica.raw", False, tmp_path, RELEASES[name].folder)
    assert result.summary.system.title == RELEASES[name].product
    assert_converted(volume, False, name)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dirty", "marked for a check"),
        ("hibernated", "Windows is hibernated"),
        ("locked", "encrypted by BitLocker"),
        ("inactive", "no partition of the disk is active"),
    ],
)
def test_guests_that_are_refused_stay_as_they_are(tmp_path: Path, kind: str, reason: str) -> None:
    replica, files = tmp_path / "replica.raw", files_of("win2k19")
    if kind == "hibernated":
        files["/c/hiberfil.sys"] = hibernation_file()
    make_disk(replica, files, efi=False, dirty=kind == "dirty", locked=kind == "locked")
    if kind == "inactive":
        with replica.open("r+b") as file:  # the first entry of the partition table
            file.seek(446)
            file.write(b"\0")
    with pytest.raises(Unsupported, match=reason):
        converted(replica, False, tmp_path, "2k19")
    subprocess.run(["cmp", replica, tmp_path / "volume.raw"], check=True)
