"""Find the guest's one system and mount it. Runs in the worker process; standard library and guestfs only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from coriolis.convert.guestfs_guest import GuestfsGuest, ask
from coriolis.convert.linux import detect
from coriolis.convert.plugin import Say
from coriolis.convert.text import decode, shown
from coriolis.convert.windows.mount_ntfs import mount_windows
from coriolis.errors import Corrupt, Unsupported

MAX_FSTAB_BYTES = 256 << 10
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")


def mount_guest(handle: Any, passphrases: Sequence[str], say: Say) -> GuestfsGuest:
    """Find the one system, mount it read-write. Raises Unsupported, Corrupt."""
    systems: dict[str, str] = ask("list file systems", handle.list_filesystems)
    if len(systems) > detect.MAX_FILE_SYSTEMS:
        raise Unsupported(f"the disks hold more than {detect.MAX_FILE_SYSTEMS} file systems")
    encrypted = "crypto_LUKS" in systems.values()
    roots = [root for device in sorted(systems) if (root := _root_on(handle, device, systems[device]))]
    if not roots and (windows := mount_windows(handle, systems, say)) is not None:
        return windows
    if not roots:
        roots = _roots_by_inspection(handle)
    root = detect.only_root(roots, encrypted)
    points, messages = detect.mounts(root, lambda name: _resolve(handle, systems, name))
    for message in messages:
        say(message)
    for point, device in points:
        ask(f"mount {point}", partial(handle.mount, device, point))
    return GuestfsGuest(handle, _uuids(handle, systems, say))


def _root_on(handle: Any, device: str, kind: str) -> detect.Root | None:
    if kind not in detect.ROOT_FILE_SYSTEMS:
        return None
    try:
        handle.mount_ro(device, "/")
    except RuntimeError:
        return None  # a damaged file system beside the root is the guest's own matter
    try:
        release = next((path for path in _OS_RELEASE if handle.is_file(path, followsymlinks=True)), None)
        if release is None or not handle.is_file("/etc/fstab", followsymlinks=True):
            return None
        texts = [decode(handle.pread(path, MAX_FSTAB_BYTES, 0)) for path in ("/etc/fstab", release)]
        return detect.Root(device, *texts)
    except RuntimeError as error:
        raise Corrupt(f"the file system on {shown(device)} cannot be read: {shown(error)}") from error
    finally:
        handle.umount_all()


def _roots_by_inspection(handle: Any) -> list[detect.Root]:
    """The slow way, for roots in btrfs subvolumes and the like."""
    devices: list[str] = ask("inspect the disks", handle.inspect_os)
    return [root for device in devices if (root := _root_on(handle, device, "btrfs"))]


def _resolve(handle: Any, systems: dict[str, str], name: str) -> str | None:
    try:
        for prefix, find in (
            ("UUID=", handle.findfs_uuid),
            ("/dev/disk/by-uuid/", handle.findfs_uuid),
            ("LABEL=", handle.findfs_label),
            ("/dev/disk/by-label/", handle.findfs_label),
        ):
            if name.startswith(prefix):
                return str(find(name.removeprefix(prefix).strip("\"'")))
    except RuntimeError:
        return None
    device = detect.same_lvm(detect.appliance_device(name))
    return device if device in systems else None


def _uuids(handle: Any, systems: dict[str, str], say: Say) -> dict[str, str]:
    """Device -> UUID; a UUID that two devices claim is nobody's, for the kernel would take either."""
    found: dict[str, str] = {}
    for device in systems:
        try:
            uuid = str(handle.vfs_uuid(device))
        except RuntimeError:
            continue
        if uuid and all(char.isalnum() or char == "-" for char in uuid):
            found[device] = uuid
    claims = list(found.values())
    twice = {uuid for uuid in claims if claims.count(uuid) > 1}
    for uuid in sorted(twice):
        say(f"two file systems have the UUID {uuid}: it is not used")
    return {device: uuid for device, uuid in found.items() if uuid not in twice}
