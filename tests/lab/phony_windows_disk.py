"""Phony Windows guests on disks with real NTFS and partition tables, made without an appliance: needs root and FUSE."""

from __future__ import annotations

import posixpath
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from coriolis.convert.windows.volume import DIRTY, volume_flags

SECTOR = 512
BOOT_SECTOR = 2048
_GPT = """label: gpt
start=2048, size=204800, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start=206848, size=32768, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE
start=239616, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
"""
_MBR = """label: dos
start=2048, size=202752, type=7, bootable
start=204800, type=7
"""
DRIVE_SECTOR = {True: 239616, False: 204800}
"""Where the Windows drive begins, by whether the guest starts by UEFI."""
_TAIL_SECTORS = 2048  # behind the last partition: GPT's second copy lies there


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
    _run("sfdisk", "-q", str(path), text=_GPT if efi else _MBR)
    start = DRIVE_SECTOR[efi]
    with tempfile.TemporaryDirectory(prefix="phony-windows-") as directory:
        drive, boot = Path(directory, "drive"), Path(directory, "boot")
        _ntfs(drive, size // SECTOR - start - _TAIL_SECTORS, start, _below(files, "/c"))
        boot_sectors = 202752
        if efi:
            _fat(boot, boot_sectors, _below(files, "/system"), Path(directory, "content"))
        else:
            _ntfs(boot, boot_sectors, BOOT_SECTOR, _below(files, "/system"))
        for image, sector in ((drive, start), (boot, BOOT_SECTOR)):
            place = ("bs=1M", "oflag=seek_bytes", f"seek={sector * SECTOR}")
            _run("dd", f"if={image}", f"of={path}", *place, "conv=sparse,notrunc")
    if dirty:
        _set_dirty(path, start * SECTOR)
    if locked:
        _write_at(path, start * SECTOR + 3, b"-FVE-FS-")


def _below(files: Mapping[str, bytes], top: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{top}/"): data for name, data in files.items() if name.startswith(f"{top}/")}


def _ntfs(image: Path, sectors: int, start: int, files: Mapping[str, bytes]) -> None:
    with image.open("wb") as file:
        file.truncate(sectors * SECTOR)
    _run("mkntfs", "-F", "-Q", "-q", "-s", str(SECTOR), "-p", str(start), "-H", "255", "-S", "63", str(image))
    with _mounted(image) as top:
        for name, data in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(data)


@contextmanager
def _mounted(image: Path) -> Iterator[Path]:
    """ntfs-3g ends only when all is written: it stays in the foreground and is waited for."""
    top = image.with_suffix(".mnt")
    top.mkdir()
    command = ["ntfs-3g", "-o", "no_detach", str(image), str(top)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if top.is_mount():
                break
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError("ntfs-3g did not mount: root and /dev/fuse are needed")
        yield top
    finally:
        _run("umount", str(top))
        process.wait(30)


def _fat(image: Path, sectors: int, files: Mapping[str, bytes], content: Path) -> None:
    with image.open("wb") as file:
        file.truncate(sectors * SECTOR)
    _run("mkfs.vfat", str(image))
    made: set[str] = set()
    for name, data in files.items():
        parts = posixpath.dirname(name).split("/")
        for count in range(1, len(parts) + 1):
            directory = "/".join(parts[:count])
            if directory and directory not in made:
                _run("mmd", "-i", str(image), f"::/{directory}")
                made.add(directory)
        content.write_bytes(data)
        _run("mcopy", "-i", str(image), str(content), f"::/{name}")


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")


def _set_dirty(path: Path, offset: int) -> None:
    """Set the flag in $Volume, the fourth record of the master file table and of its mirror, 1 KiB each here."""
    boot = _read_at(path, offset, SECTOR)
    cluster = int.from_bytes(boot[11:13], "little") * boot[13]
    table, mirror = (cluster * int.from_bytes(boot[at : at + 8], "little") for at in (48, 56))
    record = _read_at(path, offset + table + 3 * 1024, 1024)
    at = int.from_bytes(record[20:22], "little")
    while int.from_bytes(record[at : at + 4], "little") != 0x70:
        at += int.from_bytes(record[at + 4 : at + 8], "little")
    place = at + int.from_bytes(record[at + 20 : at + 22], "little") + 10
    for start in (table, mirror):
        _write_at(path, offset + start + 3 * 1024 + place, bytes([record[place] | DIRTY]))
    assert volume_flags(lambda where, length: _read_at(path, offset + where, length)) & DIRTY


def _read_at(path: Path, at: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(length)


def _write_at(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
