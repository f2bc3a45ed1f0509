"""A guest's disks opened by libguestfs in its appliance.

Runs in the worker process; standard library and guestfs only.

Everything libguestfs says of a guest is hostile: it becomes Corrupt or Unsupported with a bounded, escaped
text.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import guestfs

from coriolis.convert.linux import detect
from coriolis.convert.linux.guest import MAX_LISTING
from coriolis.convert.linux.text import decode, shown
from coriolis.errors import Corrupt, Unavailable, Unsupported

PIECE_BYTES = 1 << 20  # the appliance's protocol carries at most 4 MiB a message
MAX_FSTAB_BYTES = 256 << 10
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")

_T = TypeVar("_T")


@contextmanager
def launched(disks: Sequence[str], accelerator: str, memory_mb: int) -> Iterator[Any]:
    """An appliance with the qcow2 files ``disks`` as sda, sdb, ...; a 1 MiB scratch disk when there are none.

    Raises Unavailable when it does not start. Leaving without an error flushes and checks that.
    """
    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    handle.set_backend_settings(["force_kvm" if accelerator == "kvm" else "force_tcg"])
    handle.set_memsize(memory_mb)
    handle.set_smp(2)
    try:
        try:
            for disk in disks:
                handle.add_drive_opts(disk, format="qcow2", cachemode="unsafe")
            if not disks:
                handle.add_drive_scratch(1 << 20)
            handle.launch()
        except RuntimeError as error:
            raise Unavailable(
                f"the conversion appliance did not start ({accelerator}): {shown(_first_line(error))}"
            ) from error
        yield handle
        try:
            handle.umount_all()
            handle.shutdown()
        except RuntimeError as error:
            raise Corrupt(f"the converted file systems could not be flushed: {shown(error)}") from error
    finally:
        handle.close()


class GuestfsGuest:
    """Implements ``linux.guest.Guest``. Construct it by ``mount_guest``."""

    def __init__(self, handle: Any, uuids: dict[str, str]) -> None:
        self._g = handle
        self._uuids = uuids

    def is_file(self, path: str) -> bool:
        return bool(_ask(f"look at {path}", lambda: self._g.is_file(path, followsymlinks=True)))

    def is_dir(self, path: str) -> bool:
        return bool(_ask(f"look at {path}", lambda: self._g.is_dir(path, followsymlinks=True)))

    def listdir(self, path: str) -> list[str]:
        if not self.is_dir(path):
            return []
        names: list[str] = _ask(f"list {path}", lambda: self._g.ls(path))
        if len(names) > MAX_LISTING:
            raise Unsupported(f"{shown(path)} of the guest holds more than {MAX_LISTING} files")
        return sorted(names)

    def size(self, path: str) -> int:
        return int(_ask(f"look at {path}", lambda: self._g.filesize(path)))

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        out = bytearray()
        while len(out) < length:
            count, at = min(PIECE_BYTES, length - len(out)), offset + len(out)
            piece: bytes = _ask(f"read {path}", partial(self._g.pread, path, count, at))
            if not piece:
                break
            out += piece
        return bytes(out)

    def write(self, path: str, data: bytes) -> None:
        if not self.is_file(path) and _ask(f"look at {path}", lambda: self._g.exists(path)):
            raise Unsupported(f"{shown(path)} of the guest is no regular file")  # a pipe would hang us
        self._make_directory_of(path)
        _ask(f"write {path}", lambda: self._g.write(path, data[:PIECE_BYTES]))
        if len(data) > PIECE_BYTES:
            self.write_at(path, PIECE_BYTES, data[PIECE_BYTES:])

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            piece, at = data[done : done + PIECE_BYTES], offset + done
            done += int(_ask(f"write {path}", partial(self._g.pwrite, path, piece, at)))

    def truncate(self, path: str, size: int) -> None:
        _ask(f"truncate {path}", lambda: self._g.truncate_size(path, size))

    def copy(self, source: str, destination: str) -> None:
        self._make_directory_of(destination)
        _ask(f"copy {source}", lambda: self._g.cp(source, destination))

    def rename(self, source: str, destination: str) -> None:
        _ask(f"rename {source}", lambda: self._g.mv(source, destination))

    def free_bytes(self, path: str) -> int:
        stat = _ask(f"look at {path}", lambda: self._g.statvfs(path))
        return int(stat["bavail"]) * int(stat["bsize"])

    def uuid_of(self, device: str) -> str | None:
        return self._uuids.get(detect.appliance_device(device))

    def _make_directory_of(self, path: str) -> None:
        parent = posixpath.dirname(path)
        if not self.is_dir(parent):
            _ask(f"make {parent}", lambda: self._g.mkdir_p(parent))


def mount_guest(handle: Any, say: Callable[[str], None]) -> tuple[GuestfsGuest, str]:
    """Find the one Linux system, mount it read-write; (guest, its distribution).

    Raises Unsupported, Corrupt.
    """
    systems: dict[str, str] = _ask("list file systems", handle.list_filesystems)
    if len(systems) > detect.MAX_FILE_SYSTEMS:
        raise Unsupported(f"the disks hold more than {detect.MAX_FILE_SYSTEMS} file systems")
    encrypted = "crypto_LUKS" in systems.values()
    roots = [root for device in sorted(systems) if (root := _root_on(handle, device, systems[device]))]
    if not roots:
        roots = _roots_by_inspection(handle)
    root = detect.only_root(roots, encrypted)
    points, messages = detect.mounts(root, lambda name: _resolve(handle, systems, name))
    for message in messages:
        say(message)
    for point, device in points:
        _ask(f"mount {point}", partial(handle.mount, device, point))
    return GuestfsGuest(handle, _uuids(handle, systems, say)), detect.distribution(root.os_release)


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
    devices: list[str] = _ask("inspect the disks", handle.inspect_os)
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


def _uuids(handle: Any, systems: dict[str, str], say: Callable[[str], None]) -> dict[str, str]:
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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _ask(what: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except (RuntimeError, UnicodeError) as error:
        raise Corrupt(f"the guest's file system failed: {shown(what)}: {shown(error)}") from error
