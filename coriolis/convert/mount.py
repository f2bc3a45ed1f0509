"""Find the guest's one system and mount it. Runs in the worker process; standard library and guestfs only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from coriolis.convert.guestfs_guest import GuestfsGuest, ask, is_regular
from coriolis.convert.linux import detect
from coriolis.convert.linux.devices import Devices, array_names, mapped_names
from coriolis.convert.linux.release import OS_RELEASE, RELEASE_FILES
from coriolis.convert.plugin import Say
from coriolis.convert.text import decode, shown
from coriolis.convert.windows.mount_ntfs import mount_windows
from coriolis.errors import Corrupt, Unsupported

MAX_TABLE_BYTES = 256 << 10
MAX_ENCRYPTED_DEVICES = 16
MAX_PASSPHRASES = 8
MAX_BLOCK_DEVICES = 300
_TAGS = {
    "TYPE": "TYPE",
    "UUID": "UUID",
    "LABEL": "LABEL",
    "PART_ENTRY_UUID": "PARTUUID",
    "PART_ENTRY_NAME": "PARTLABEL",
}
_MDADM = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")


def mount_guest(handle: Any, passphrases: Sequence[str], say: Say) -> GuestfsGuest:
    """Find the one system, mount it read-write. Raises Unsupported, Corrupt."""
    found = _look_at(handle, {})
    encrypted = sorted(device for device, tags in found.items() if tags.get("TYPE") == "crypto_LUKS")
    opened = _open_encrypted(handle, encrypted, passphrases, say)
    if opened:
        found = _look_at(handle, found)
    systems: dict[str, str] = ask("list file systems", handle.list_filesystems)
    plain, subvolumes = detect.split_file_systems(systems)
    closed = [device for device in encrypted if device not in opened]
    roots = _roots(handle, plain, subvolumes)
    if not roots and (windows := mount_windows(handle, systems, say)) is not None:
        return windows
    root = detect.only_root(roots, closed)

    devices = Devices(found, len(ask("list disks", handle.list_devices)))
    for uuid in devices.doubled():
        say(f"two file systems have the UUID {shown(uuid)}: it is not used")
    ask("mount the root", lambda: handle.mount(root.device, "/"))
    devices.aliases |= _aliases(handle, root, opened, devices.find)
    points, messages = detect.mounts(root, devices.find)
    for message in messages:
        say(message)
    for one in points[1:]:
        # a link of the guest would lead the mount into the appliance's own tree
        point: str = ask(f"find {one.point}", partial(handle.realpath, one.point))
        if one.options:
            ask(f"mount {one.point}", partial(handle.mount_options, one.options, one.device, point))
        else:
            ask(f"mount {one.point}", partial(handle.mount, one.device, point))
    return GuestfsGuest(handle, devices)


def _open_encrypted(handle: Any, encrypted: Sequence[str], passphrases: Sequence[str], say: Say) -> dict[str, str]:
    """Encrypted device -> what it became, for those that a passphrase opens."""
    if len(encrypted) > MAX_ENCRYPTED_DEVICES:
        raise Unsupported(f"the disks hold more than {MAX_ENCRYPTED_DEVICES} encrypted devices")
    opened = {}
    for number, device in enumerate(encrypted):
        for passphrase in passphrases[:MAX_PASSPHRASES]:
            name = f"coriolis-luks-{number}"
            try:
                handle.cryptsetup_open(device, passphrase, name)
            except RuntimeError:
                continue  # not this one's; the message of libguestfs would say no more
            opened[device] = f"/dev/mapper/{name}"
            say(f"{shown(device)} is encrypted and was opened")
            break
    if opened:
        ask("look for volume groups", lambda: handle.lvm_scan(True))
    return opened


def _roots(handle: Any, plain: dict[str, str], subvolumes: list[str]) -> list[detect.Root]:
    candidates = [device for device in sorted(plain) if plain[device] in detect.ROOT_FILE_SYSTEMS]
    roots = [root for device in candidates if (root := _root_on(handle, device))]
    if not roots:  # the default subvolume of a btrfs is not its root everywhere
        found = [root for name in detect.root_subvolumes(subvolumes) if (root := _root_on(handle, name))]
        roots = [root for root in found if detect.is_its_own_root(root)]
    return roots


def _root_on(handle: Any, device: str) -> detect.Root | None:
    try:
        handle.mount_ro(device, "/")
    except RuntimeError:
        return None  # a damaged file system beside the root is the guest's own matter
    try:
        release = any(is_regular(handle, path) for path in (*OS_RELEASE, *RELEASE_FILES))
        # /usr apart holds what a link of the root leads to, so the link itself must count
        release = release or bool(handle.is_symlink("/etc/os-release"))
        if not release or not is_regular(handle, "/etc/fstab"):
            return None
        return detect.Root(device, _table(handle, "/etc/fstab"))
    except RuntimeError as error:
        raise Corrupt(f"the file system on {shown(device)} cannot be read: {shown(error)}") from error
    finally:
        handle.umount_all()


def _table(handle: Any, path: str) -> str:
    """The start of a file of the mounted root, empty when there is none."""
    return decode(handle.pread(path, MAX_TABLE_BYTES, 0)) if is_regular(handle, path) else ""


def _look_at(handle: Any, known: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Every block device -> its tags and TYPE, what is known kept. libguestfs's own list leaves out encrypted ones."""
    names: set[str] = set()
    for kind in ("devices", "partitions", "md_devices", "dm_devices"):
        names |= set(ask(f"list {kind}", getattr(handle, f"list_{kind}")))
    names |= set(ask("list logical volumes", handle.lvs))
    if len(names) > MAX_BLOCK_DEVICES:
        raise Unsupported(f"the disks hold more than {MAX_BLOCK_DEVICES} partitions and volumes")
    found = dict(known)
    for device in sorted(names - known.keys()):
        try:
            tags: dict[str, str] = handle.blkid(device)
        except RuntimeError:
            tags = {}  # nothing known lies there
        found[device] = {ours: tags[theirs] for theirs, ours in _TAGS.items() if tags.get(theirs)}
    return found


def _aliases(handle: Any, root: detect.Root, opened: dict[str, str], find: detect.Resolve) -> dict[str, str]:
    """Names that the guest's own tables give: of opened encrypted devices, of arrays, of the root."""
    names = ask("read crypttab", lambda: mapped_names(_table(handle, "/etc/crypttab"), opened, find))
    arrays = {}
    for device in ask("list arrays", handle.list_md_devices):
        detail: dict[str, str] = ask(f"look at {device}", partial(handle.md_detail, device))
        arrays[detail.get("uuid", "").lower().replace(":", "")] = device
    for path in _MDADM if arrays else ():
        names |= array_names(ask(f"read {path}", partial(_table, handle, path)), arrays)
    name = detect.root_name(root.fstab)
    if name.startswith("/dev/") and name not in names and find(name) is None:
        names[name] = detect.plain_device(root.device)  # a name of the old bus: the root is what was found
    return names
