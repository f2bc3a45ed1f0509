"""Which file systems make up a Windows, over a phony appliance that answers from a table."""

from __future__ import annotations

from typing import Any

import pytest

from coriolis.convert.windows.mount_ntfs import mount_windows
from coriolis.convert.windows.volume import OnVolume, VolumeFacts
from coriolis.errors import Unsupported
from tests.unit.convert.test_windows_volume import volume

HIVE = "/Windows/System32/config/SYSTEM"
BIOS_STORE, EFI_STORE = "/Boot/BCD", "/EFI/Microsoft/Boot/BCD"


class PhonyAppliance:
    """``files``: device -> its files. A device in ``broken`` cannot be mounted, one in ``locked`` is BitLocker's."""

    def __init__(
        self, files: dict[str, list[str]], *, table: str = "msdos", active: bool = True, flags: int = 0
    ) -> None:
        self.files, self.table, self.active, self.flags = files, table, active, flags
        self.broken: set[str] = set()
        self.locked: set[str] = set()
        self.mounts: list[tuple[str, str]] = []
        self.read_only = False
        self._device = ""

    def list_partitions(self) -> list[str]:
        return sorted({*self.files, *self.locked})

    def pread_device(self, device: str, length: int, at: int) -> bytes:
        if device in self.locked:
            return b"\xeb\x58\x90-FVE-FS-".ljust(length, b"\0")
        return bytes(volume(self.flags)[at : at + length])

    def mount_ro(self, device: str, point: str) -> None:
        if device in self.broken:
            raise RuntimeError("mount_ro: $MFTMirr does not match $MFT\n\x1b[2J")
        self._device = device

    def umount_all(self) -> None:
        self._device = ""

    def case_sensitive_path(self, path: str) -> str:
        for name in self.files[self._device]:
            if name.lower() == path.lower():
                return name
        raise RuntimeError("case_sensitive_path: no file or directory found with this name")

    def is_file(self, path: str) -> bool:
        return path in self.files[self._device]

    def part_to_dev(self, device: str) -> str:
        return device.rstrip("0123456789")

    def mkmountpoint(self, point: str) -> None:
        self.mounts.append(("made", point))

    def mount(self, device: str, point: str) -> None:
        assert ("made", point) in self.mounts
        self.mounts.append((device, point))

    def statvfs(self, point: str) -> dict[str, int]:
        return {"flag": 4096 | int(self.read_only)}

    def part_get_parttype(self, disk: str) -> str:
        return self.table

    def part_list(self, disk: str) -> list[dict[str, int]]:
        return [{"part_num": 1}, {"part_num": 2}]

    def part_get_bootable(self, disk: str, number: int) -> bool:
        return self.active and number == 1

    def found(self, **kinds: str) -> Any:
        systems = {device: kinds.get(device.rpartition("/")[2], "ntfs") for device in self.files}
        return mount_windows(self, systems, lambda text: None)

    def mounted(self) -> list[tuple[str, str]]:
        return [one for one in self.mounts if one[0] != "made"]


def test_a_bios_guest_with_a_partition_for_the_boot_store() -> None:
    appliance = PhonyAppliance({"/dev/sda1": [BIOS_STORE], "/dev/sda2": [HIVE.lower()], "/dev/sdb1": []})
    guest = appliance.found()
    assert appliance.mounted() == [("/dev/sda2", "/c"), ("/dev/sda1", "/system")]
    assert isinstance(guest, OnVolume)
    assert guest.volume == VolumeFacts(dirty=False, read_only=False, table="msdos", active=True)


def test_a_uefi_guest() -> None:
    appliance = PhonyAppliance({"/dev/sda1": [EFI_STORE], "/dev/sda3": [HIVE]}, table="gpt", flags=1)
    appliance.read_only = True
    guest = appliance.found(sda1="vfat")
    assert appliance.mounted() == [("/dev/sda3", "/c"), ("/dev/sda1", "/system")]
    assert guest.volume == VolumeFacts(dirty=True, read_only=True, table="gpt", active=False)


def test_one_partition_for_all_and_none_active() -> None:
    appliance = PhonyAppliance({"/dev/sda1": [HIVE, BIOS_STORE]}, active=False)
    assert appliance.found().volume.active is False
    assert appliance.mounted() == [("/dev/sda1", "/c")]


def test_the_boot_store_of_the_drives_own_disk_is_taken() -> None:
    appliance = PhonyAppliance({"/dev/sda1": [BIOS_STORE], "/dev/sdb1": [BIOS_STORE], "/dev/sdb2": [HIVE]})
    appliance.found()
    assert appliance.mounted() == [("/dev/sdb2", "/c"), ("/dev/sdb1", "/system")]


def test_no_windows_is_for_others_to_know() -> None:
    assert PhonyAppliance({"/dev/sda1": ["/etc/fstab"], "/dev/sdb1": []}).found(sda1="ext4") is None


def test_several_are_refused() -> None:
    with pytest.raises(Unsupported, match=r"2 Windows systems \(/dev/sda1, /dev/sdb1\)"):
        PhonyAppliance({"/dev/sda1": [HIVE], "/dev/sdb1": [HIVE]}).found()


def test_bitlocker_is_refused_where_windows_is_and_left_elsewhere() -> None:
    appliance = PhonyAppliance({"/dev/sda1": [BIOS_STORE]})
    appliance.locked = {"/dev/sda2"}
    with pytest.raises(Unsupported, match=r"BitLocker \(/dev/sda2\): decrypt it in Windows \(manage-bde -off C:\)"):
        appliance.found()
    appliance = PhonyAppliance({"/dev/sda1": [HIVE, BIOS_STORE]})
    appliance.locked = {"/dev/sdb1"}
    said: list[str] = []
    assert mount_windows(appliance, {"/dev/sda1": "ntfs"}, said.append) is not None
    assert said
    assert "/dev/sdb1 is encrypted by BitLocker" in said[0]


def test_an_ntfs_that_cannot_be_mounted_is_named() -> None:
    appliance = PhonyAppliance({"/dev/sda1": [HIVE]})
    appliance.broken = {"/dev/sda1"}
    with pytest.raises(Unsupported, match=r"/dev/sda1: mount_ro: \$MFTMirr does not match \$MFT\\n\\x1b.*chkdsk /f"):
        appliance.found()
    beside = PhonyAppliance({"/dev/sda1": [HIVE, BIOS_STORE], "/dev/sdb1": []})
    beside.broken = {"/dev/sdb1"}
    assert beside.found() is not None


def test_dynamic_disks_are_refused() -> None:
    device = "/dev/mapper/ldm_vol_Phony-Dg0_Volume1"
    with pytest.raises(Unsupported, match="dynamic disk"):
        mount_windows(PhonyAppliance({device: [HIVE]}), {device: "ntfs"}, lambda text: None)
