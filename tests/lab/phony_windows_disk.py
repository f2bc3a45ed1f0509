"""Phony Windows guests on disks with real NTFS and partition tables, made by libguestfs's appliance."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coriolis.convert.windows.volume import DIRTY, volume_flags

SECTOR = 512
_GPT = (
    (2048, 206847, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
    (206848, 239615, "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"),
    (239616, -2048, "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"),
)


def make_disk(
    path: Path,
    files: Mapping[str, bytes],
    *,
    efi: bool,
    size: int = 768 << 20,
    dirty: bool = False,
    locked: bool = False,
) -> None:
    """A raw disk. ``dirty``: its NTFS is marked for a check. ``locked``: BitLocker's mark is over the Windows drive."""
    with path.open("wb") as file:
        file.truncate(size)
    handle = _launched(path)
    boot, drive = _partitioned(handle, efi)
    for device, top in ((drive, "/c"), (boot, "/system")):
        handle.mount(device, "/")
        for name, data in files.items():
            if name.startswith(f"{top}/"):
                inner = name.removeprefix(top)
                handle.mkdir_p(posixpath.dirname(inner))
                handle.write(inner, data)
        handle.umount_all()
    offset = next(one["part_start"] for one in handle.part_list("/dev/sda") if drive.endswith(str(one["part_num"])))
    handle.shutdown()
    handle.close()
    if dirty:
        _set_dirty(path, offset)
    if locked:
        _write_at(path, offset + 3, b"-FVE-FS-")


def _launched(path: Path) -> Any:
    import guestfs

    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    handle.set_backend_settings(["force_tcg"])
    handle.add_drive_opts(str(path), format="raw", cachemode="unsafe")
    handle.launch()
    return handle


def _partitioned(handle: Any, efi: bool) -> tuple[str, str]:
    """(boot partition, Windows drive)."""
    if efi:
        handle.part_init("/dev/sda", "gpt")
        for number, (start, end, kind) in enumerate(_GPT, 1):
            handle.part_add("/dev/sda", "p", start, end)
            handle.part_set_gpt_type("/dev/sda", number, kind)
        boot, drive = "/dev/sda1", "/dev/sda3"
        handle.mkfs("vfat", boot)
    else:
        handle.part_init("/dev/sda", "mbr")
        handle.part_add("/dev/sda", "p", 2048, 204799)
        handle.part_add("/dev/sda", "p", 204800, -2048)
        for number in (1, 2):
            handle.part_set_mbr_id("/dev/sda", number, 7)
        handle.part_set_bootable("/dev/sda", 1, True)
        boot, drive = "/dev/sda1", "/dev/sda2"
        handle.mkfs("ntfs", boot, label="System Reserved")
    handle.mkfs("ntfs", drive, label="Windows")
    return boot, drive


def _set_dirty(path: Path, offset: int) -> None:
    """Set the flag in $Volume, the fourth record of the master file table and of its mirror, 1 KiB each here."""
    with path.open("rb") as file:
        boot = _read(file, offset, SECTOR)
        cluster = int.from_bytes(boot[11:13], "little") * boot[13]
        table, mirror = (cluster * int.from_bytes(boot[at : at + 8], "little") for at in (48, 56))
        record = _read(file, offset + table + 3 * 1024, 1024)
    at = int.from_bytes(record[20:22], "little")
    while int.from_bytes(record[at : at + 4], "little") != 0x70:
        at += int.from_bytes(record[at + 4 : at + 8], "little")
    place = at + int.from_bytes(record[at + 20 : at + 22], "little") + 10
    for start in (table, mirror):
        _write_at(path, offset + start + 3 * 1024 + place, bytes([record[place] | DIRTY]))
    with path.open("rb") as file:
        assert volume_flags(lambda where, length: _read(file, offset + where, length)) & DIRTY


def _read(file: Any, at: int, length: int) -> bytes:
    file.seek(at)
    data: bytes = file.read(length)
    return data


def _write_at(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
