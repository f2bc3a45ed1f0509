"""The fast way: append the target's drivers to every initramfs of the guest.

Nothing of the old file is changed: its drivers stay, so the guest still boots on its origin, and the change
is undone by cutting the file at its old length, which the record keeps. A second conversion does that first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from coriolis.convert.guest import MAX_MODULE_BYTES, MAX_TEXT_BYTES, Guest, read, read_text
from coriolis.convert.linux import cpio, image, initramfs, kernels, lvm, modules, stale
from coriolis.convert.linux.compression import plain_module
from coriolis.convert.linux.depmod import INDEX_FILES, index_of
from coriolis.convert.linux.kernels import Initramfs
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Say
from coriolis.convert.text import decode, encode, shown
from coriolis.errors import Corrupt, QuotaExceeded, Unsupported

RECORD = "/var/lib/coriolis/conversion.json"
MARK = "etc/coriolis-converted"
MAX_INDEX_BYTES = 32 << 20
BOOT_RESERVE_BYTES = 1 << 20
_INITRAMFS_TOOLS = ("/usr/sbin/update-initramfs", "/usr/sbin/mkinitramfs")
_CHECKSUMS = "/var/lib/initramfs-tools"
_DRACUT = ("/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut")
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What a record that somebody else wrote can cause."""
_KEPT_LISTS = ("modules.order", "modules.builtin", "modules.builtin.modinfo")

Index = Literal["full", "merged"]


@dataclass(frozen=True, slots=True)
class Injection:
    """What was appended to one initramfs. ``modules``: paths below ``/lib/modules/<version>`` of the guest's root.

    ``index``: ``full`` is the guest's own index of all its modules, ``merged`` one made for what the image holds.
    """

    path: str
    version: str
    old_size: int
    added: int
    modules: tuple[str, ...]
    names: tuple[str, ...]
    index: Index = "full"


def inject_all(guest: Guest, platform: TargetPlatform, images: Sequence[Initramfs], say: Say) -> list[Injection]:
    """Inject into each of ``images``. When one cannot take it, none keeps it.

    Raises Unsupported or Corrupt when the fast way cannot hold, QuotaExceeded when there is no room.
    """
    undo(guest, say)
    if not images:
        raise Unsupported("no initramfs with a module tree was found in the guest's /boot")
    done: list[Injection] = []
    try:
        for one in images:
            done.append(_inject(guest, platform, one, say))
            _keep_checksum(guest, one)
            say(f"{shown(one.path)}: {len(done[-1].modules)} modules, {done[-1].added} bytes, {done[-1].index} index")
    except (Unsupported, Corrupt, QuotaExceeded):
        for injection in done:
            guest.truncate(injection.path, injection.old_size)
            _keep_checksum(guest, Initramfs(injection.path, injection.version))
        raise
    guest.write(RECORD, encode(json.dumps({one.path: asdict(one) for one in done}, indent=1)))
    return done


def recorded(guest: Guest) -> list[Injection]:
    """What the record in the guest says was injected. Raises Corrupt."""
    try:
        record = json.loads(decode(read(guest, RECORD, MAX_TEXT_BYTES)))
        return [
            Injection(**{**one, "modules": tuple(one["modules"]), "names": tuple(one["names"])})
            for one in record.values()
        ]
    except _UNREADABLE as error:
        raise Corrupt(f"the record of this conversion, {RECORD}, cannot be read back") from error


def undo(guest: Guest, say: Say) -> None:
    """Cut off what a former conversion appended, if the file still is what that conversion left; drop the record."""
    if not guest.is_file(RECORD):
        return
    try:
        record = json.loads(decode(read(guest, RECORD, MAX_TEXT_BYTES)))
        former = [(str(path), int(one["old_size"]), int(one["added"])) for path, one in record.items()]
    except _UNREADABLE:
        say(f"the record of a former conversion, {RECORD}, cannot be read; it is replaced")
        guest.remove(RECORD)
        return
    for path, old_size, added in former[: kernels.MAX_KERNELS]:
        known = old_size > cpio.HEADER_BYTES and added > 0 and kernels.is_initramfs(guest, path)
        if known and guest.size(path) == old_size + added:
            guest.truncate(path, old_size)
            _keep_checksum(guest, Initramfs(path, str(record[path].get("version", ""))))
            say(f"{shown(path)}: the archive of a former conversion was removed")
    guest.remove(RECORD)


def index_for(guest: Guest, needed: modules.Closure) -> Index:
    """Which index holds for the guest.

    The guest's own is right only where the image has its modules under the names that the root has them, and where
    nothing in the image can be about old disks: with initramfs-tools, modules that are not compressed, no encryption.
    """
    if needed.compressed or any(guest.is_file(path) for path in _DRACUT):
        return "merged"
    if not any(guest.is_file(path) for path in _INITRAMFS_TOOLS):
        return "merged"
    encrypted = any(line.split("#")[0].split() for line in read_text(guest, "/etc/crypttab").splitlines())
    resume = read_text(guest, "/etc/initramfs-tools/conf.d/resume")
    filters = read_text(guest, "/etc/lvm/lvm.conf")
    bound = encrypted or "=/dev/" in resume or lvm.without_old_filters(filters) != filters
    return "merged" if bound else "full"


def _inject(guest: Guest, platform: TargetPlatform, one: Initramfs, say: Say) -> Injection:
    old_size = guest.size(one.path)
    needed = kernels.needed_modules(guest, platform, one.version)
    index = index_for(guest, needed)
    if index == "merged":
        image_bytes = read(guest, one.path, initramfs.MAX_INITRAMFS_BYTES)
        last = _appendable(lambda offset, length: image_bytes[offset : offset + length], old_size)
        archive = _merged_archive(guest, one, image.files_of(image_bytes), needed, say)
    else:
        last = _appendable(lambda offset, length: guest.read_at(one.path, offset, length), old_size)
        archive = _full_archive(guest, one, needed)
    use_gzip = initramfs.kernel_unpacks_gzip(_kernel_config(guest, one.version))
    added = initramfs.appendix(old_size, last.kind, archive, use_gzip=use_gzip)
    directory = one.path.rpartition("/")[0]
    free = guest.free_bytes(directory)
    if free < len(added) + BOOT_RESERVE_BYTES:
        raise QuotaExceeded(
            f"the guest's {directory} has {free} bytes free; {len(added) + BOOT_RESERVE_BYTES} are needed"
        )
    guest.write_at(one.path, old_size, added)
    return Injection(one.path, one.version, old_size, len(added), needed.paths, needed.names, index)


def _appendable(read_at: initramfs.ReadAt, size: int) -> initramfs.Segment:
    """The last segment of an image. Raises Unsupported when nothing can follow it."""
    last = initramfs.segments(read_at, size)[-1]
    if last.kind == "lz4":
        initramfs.refuse_padded_lz4(read_at, last.offset, size)
    return last


def _keep_checksum(guest: Guest, one: Initramfs) -> None:
    """initramfs-tools of Debian 8 and Ubuntu 14.04 refuses to update an image that it did not write itself."""
    state = f"{_CHECKSUMS}/{one.version}"
    if "/" not in one.version and guest.is_file(state) and "altered" in read_text(guest, _INITRAMFS_TOOLS[0]):
        digest = hashlib.sha1(read(guest, one.path, initramfs.MAX_INITRAMFS_BYTES), usedforsecurity=False)
        guest.write(state, f"{digest.hexdigest()}  {one.path}\n".encode())


def _kernel_config(guest: Guest, version: str) -> str:
    places = (f"/boot/config-{version}", f"/lib/modules/{version}/config")
    return next((text for path in places if (text := read_text(guest, path))), "")


def _full_archive(guest: Guest, one: Initramfs, needed: modules.Closure) -> bytes:
    """Modules and the guest's own full index: kmod of the initramfs reads the binary files only."""
    tree, top = f"/lib/modules/{one.version}", f"lib/modules/{one.version}"
    writer = cpio.Writer()
    for path in needed.paths:
        writer.add_file(f"{top}/{path}", read(guest, f"{tree}/{path}", MAX_MODULE_BYTES))
    for name in INDEX_FILES:
        if guest.is_file(f"{tree}/{name}"):
            writer.add_file(f"{top}/{name}", read(guest, f"{tree}/{name}", MAX_INDEX_BYTES))
    writer.add_file(MARK, b"1\n")
    return writer.finish()


def _merged_archive(guest: Guest, one: Initramfs, files: image.Files, needed: modules.Closure, say: Say) -> bytes:
    """Modules that the image lacks, an index of what it then holds, and replacements of what it knows of old disks.

    Raises Unsupported for an image that loads drivers by lists of its own only.
    """
    tree, top = f"/lib/modules/{one.version}", f"lib/modules/{one.version}"
    if not image.has_udev(files):
        raise Unsupported(f"{shown(one.path)} has no udev: it would not load what is added to it")
    present = image.modules_in(files, one.version)
    added = {}
    for path in needed.paths:
        if modules.module_name(path) not in present:
            data = plain_module(path, read(guest, f"{tree}/{path}", MAX_MODULE_BYTES), MAX_MODULE_BYTES)
            added[modules.plain_path(path)] = data
    held = {path: files[f"{top}/{path}"].data for path in present.values()}
    lists = {}
    for name in _KEPT_LISTS:
        if f"{top}/{name}" in files:
            lists[name] = bytes(files[f"{top}/{name}"].data)
        elif guest.is_file(f"{tree}/{name}"):
            lists[name] = read(guest, f"{tree}/{name}", MAX_INDEX_BYTES)
    writer = cpio.Writer()
    for path, data in {**added, **index_of(one.version, {**held, **added}, lists)}.items():
        writer.add_file(f"{top}/{path}", data)
    for replacement in stale.replacements(files, guest.uuid_of):
        if replacement.data is None:
            writer.replace_by_link(replacement.name, "/nonexistent")
        else:
            writer.replace_file(replacement.name, replacement.data, files[replacement.name].mode & 0o777)
        say(f"{shown(one.path)}: {shown(replacement.name)}: {replacement.why}")
    writer.add_file(MARK, b"1\n")
    return writer.finish()
