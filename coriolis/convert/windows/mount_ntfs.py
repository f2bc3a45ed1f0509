"""Find and mount a Windows: its drive at ``/c``, the partition it starts from at ``/system``.

Runs in the worker process; standard library and guestfs only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from coriolis.convert.guestfs_guest import GuestfsGuest, ask
from coriolis.convert.linux.devices import Devices
from coriolis.convert.plugin import Say
from coriolis.convert.text import shown
from coriolis.convert.windows.paths import BOOT_PARTITION, DRIVE
from coriolis.convert.windows.volume import DIRTY, VolumeFacts, is_bitlocker, volume_flags
from coriolis.errors import Unsupported

_HIVE = "/Windows/System32/config/SYSTEM"
_BOOT_FILES = ("/EFI/Microsoft/Boot/BCD", "/Boot/BCD")
_READ_ONLY = 1  # ST_RDONLY of statvfs(3)


class WindowsGuest(GuestfsGuest):
    """Implements ``OnVolume`` too."""

    def __init__(self, handle: Any, volume: VolumeFacts) -> None:
        super().__init__(handle, Devices({}, 0))
        self.volume = volume


def mount_windows(handle: Any, systems: Mapping[str, str], say: Say) -> WindowsGuest | None:
    """The one Windows among the file systems ``systems`` (device -> kind), None when there is none.

    Raises Unsupported: several, BitLocker.
    """
    unreadable: list[str] = []
    volumes = [device for device in sorted(systems) if systems[device] == "ntfs"]
    drives = [device for device in volumes if _has(handle, device, (_HIVE,), unreadable)]
    locked = [device for device in ask("list partitions", handle.list_partitions) if _is_bitlocker(handle, device)]
    if len(drives) > 1:
        raise Unsupported(
            f"the disks hold {len(drives)} Windows systems ({', '.join(drives)}); only one can be converted"
        )
    if locked and not drives:
        raise Unsupported(
            f"the disk is encrypted by BitLocker ({', '.join(locked)}): decrypt it in Windows (manage-bde -off C:), "
            "wait until manage-bde -status says 0%, and replicate once more"
        )
    if unreadable and not drives:
        raise Unsupported(
            f"an NTFS that may hold Windows cannot be mounted ({unreadable[0]}): run chkdsk /f in Windows"
        )
    if not drives:
        return None
    for device in locked:
        say(f"{device} is encrypted by BitLocker and left as it is: its key is asked for if the TPM held it")
    (drive,) = drives
    if not drive.startswith("/dev/sd"):
        raise Unsupported(f"Windows is on a dynamic disk ({drive}): make it a basic one, or use skip_os_morphing")
    disk = str(ask("find the disk", partial(handle.part_to_dev, drive)))
    dirty = bool(volume_flags(lambda at, length: _read(handle, drive, length, at)) & DIRTY)
    boot = _boot_partition(handle, systems, drive, disk)
    ask("make mount points", partial(handle.mkmountpoint, DRIVE))
    ask("make mount points", partial(handle.mkmountpoint, BOOT_PARTITION))
    ask("mount the Windows drive", partial(handle.mount, drive, DRIVE))
    if boot is not None:
        ask("mount the boot partition", partial(handle.mount, boot, BOOT_PARTITION))
    read_only = bool(ask("look at the Windows drive", partial(handle.statvfs, DRIVE))["flag"] & _READ_ONLY)
    table, active = _partition_table(handle, disk)
    return WindowsGuest(handle, VolumeFacts(dirty, read_only, table, active))


def _boot_partition(handle: Any, systems: Mapping[str, str], drive: str, disk: str) -> str | None:
    """The partition with the boot store, on the drive's own disk first; None when it is the drive itself."""
    kinds = ("vfat", "ntfs")
    others = [device for device in sorted(systems) if device != drive and systems[device] in kinds]
    others.sort(key=lambda device: not device.startswith(disk))
    return next((device for device in others if _has(handle, device, _BOOT_FILES, [])), None)


def _has(handle: Any, device: str, paths: tuple[str, ...], unreadable: list[str]) -> bool:
    """One that cannot be mounted is the guest's own matter while it is beside the drive: it is only noted."""
    try:
        handle.mount_ro(device, "/")
    except RuntimeError as error:
        unreadable.append(f"{device}: {shown(error)}")
        return False
    try:
        return any(_is_file(handle, path) for path in paths)
    finally:
        handle.umount_all()


def _is_file(handle: Any, path: str) -> bool:
    try:
        return bool(handle.is_file(handle.case_sensitive_path(path)))
    except RuntimeError:  # some directory of the path is not there
        return False


def _is_bitlocker(handle: Any, device: str) -> bool:
    return is_bitlocker(_read(handle, device, 512, 0))


def _read(handle: Any, device: str, length: int, at: int) -> bytes:
    return bytes(ask(f"read {device}", partial(handle.pread_device, device, length, at)))


def _partition_table(handle: Any, disk: str) -> tuple[str, bool]:
    """(kind, whether a partition is active)."""
    kind = str(ask("read the partition table", partial(handle.part_get_parttype, disk)))
    if kind != "msdos":
        return kind, False
    numbers = [int(part["part_num"]) for part in ask("list partitions", partial(handle.part_list, disk))]
    return kind, any(ask("list partitions", partial(handle.part_get_bootable, disk, number)) for number in numbers[:16])
