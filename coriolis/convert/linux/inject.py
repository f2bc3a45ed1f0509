"""Append the target's drivers to every initramfs of the guest.

Nothing of the old file is changed: its drivers stay, so the guest still boots on its origin, and the change
is undone by cutting the file at its old length, which the record keeps. A second conversion does that first.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from coriolis.convert.guest import MAX_MODULE_BYTES, MAX_TEXT_BYTES, Guest, read, read_text
from coriolis.convert.linux import cpio, initramfs, modules
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Say
from coriolis.convert.text import decode, encode, shown
from coriolis.errors import Corrupt, QuotaExceeded, Unsupported

RECORD = "/var/lib/coriolis/conversion.json"
MARK = "etc/coriolis-converted"
MAX_KERNELS = 32
MAX_INDEX_BYTES = 32 << 20
BOOT_RESERVE_BYTES = 1 << 20
_INITRAMFS_NAME = re.compile(r"^(?:initrd\.img-|initrd-|initramfs-)([0-9][A-Za-z0-9_.+~-]*?)(?:\.img)?$")
_INDEX_FILES = ("modules.dep.bin", "modules.alias.bin", "modules.softdep")
_DRACUT = ("/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut")


@dataclass(frozen=True, slots=True)
class Injection:
    """What was appended to one initramfs. ``modules``: paths below ``/lib/modules/<version>``."""

    path: str
    version: str
    old_size: int
    added: int
    modules: tuple[str, ...]
    names: tuple[str, ...]


def inject_all(guest: Guest, platform: TargetPlatform, say: Say) -> list[Injection]:
    """Inject into each initramfs that has a kernel's module tree. Raises Unsupported when there is none."""
    if any(guest.is_file(path) for path in _DRACUT):
        raise Unsupported(
            "the guest builds its initramfs with dracut; this version converts initramfs-tools guests only"
        )
    _undo_former(guest, say)
    done: list[Injection] = []
    for name, version in _initramfs_files(guest):
        if not guest.is_dir(f"/lib/modules/{version}"):
            say(f"left alone: /boot/{shown(name)} has no /lib/modules/{shown(version)}")
            continue
        if len(done) == MAX_KERNELS:
            raise Unsupported(f"the guest has more than {MAX_KERNELS} kernels; remove old ones")
        done.append(_inject(guest, platform, f"/boot/{name}", version))
        say(f"/boot/{shown(name)}: {len(done[-1].modules)} modules, {done[-1].added} bytes added")
    if not done:
        raise Unsupported("no initramfs with a module tree was found in the guest's /boot")
    record = {one.path: asdict(one) for one in done}
    guest.write(RECORD, encode(json.dumps(record, indent=1)))
    return done


def recorded(guest: Guest) -> list[Injection]:
    """What the record in the guest says was injected. Raises Corrupt."""
    try:
        record = json.loads(decode(read(guest, RECORD, MAX_TEXT_BYTES)))
        return [
            Injection(**{**one, "modules": tuple(one["modules"]), "names": tuple(one["names"])})
            for one in record.values()
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Corrupt(f"the record of this conversion, {RECORD}, cannot be read back") from error


def _initramfs_files(guest: Guest) -> list[tuple[str, str]]:
    found = []
    for name in guest.listdir("/boot"):
        match = _INITRAMFS_NAME.match(name)
        if match and "kdump" not in name and "rescue" not in name and guest.is_file(f"/boot/{name}"):
            found.append((name, match[1]))
    return found


def needed_modules(guest: Guest, platform: TargetPlatform, version: str) -> modules.Closure:
    """The closure of the platform's drivers for one kernel.

    Raises Unsupported when a required one is absent.
    """
    tree = f"/lib/modules/{version}"
    dep = modules.parse_dep(read_text(guest, f"{tree}/modules.dep"))
    builtin = modules.parse_builtin(read_text(guest, f"{tree}/modules.builtin"))
    found = modules.closure(dep, builtin, platform.initramfs_modules)
    lost = [name for name in platform.required if name in found.absent]
    if lost:
        raise Unsupported(f"kernel {shown(version)} of the guest has no driver {', '.join(lost)} for {platform.name}")
    if found.compressed:
        raise Unsupported(f"kernel {shown(version)} of the guest has compressed modules: not supported by this version")
    return found


def _inject(guest: Guest, platform: TargetPlatform, path: str, version: str) -> Injection:
    old_size = guest.size(path)
    segments = initramfs.segments(lambda offset, length: guest.read_at(path, offset, length), old_size)
    needed = needed_modules(guest, platform, version)
    archive = _archive(guest, version, needed)
    use_gzip = initramfs.kernel_unpacks_gzip(read_text(guest, f"/boot/config-{version}"))
    added = initramfs.appendix(old_size, segments[-1].kind, archive, use_gzip=use_gzip)
    free = guest.free_bytes("/boot")
    if free < len(added) + BOOT_RESERVE_BYTES:
        raise QuotaExceeded(f"the guest's /boot has {free} bytes free; {len(added) + BOOT_RESERVE_BYTES} are needed")
    guest.write_at(path, old_size, added)
    return Injection(path, version, old_size, len(added), needed.paths, needed.names)


def _archive(guest: Guest, version: str, needed: modules.Closure) -> bytes:
    """Modules and the guest's own full index: kmod of the initramfs reads the binary files only."""
    tree, top = f"/lib/modules/{version}", f"lib/modules/{version}"
    writer = cpio.Writer()
    for path in needed.paths:
        writer.add_file(f"{top}/{path}", read(guest, f"{tree}/{path}", MAX_MODULE_BYTES))
    for name in _INDEX_FILES:
        if guest.is_file(f"{tree}/{name}"):
            writer.add_file(f"{top}/{name}", read(guest, f"{tree}/{name}", MAX_INDEX_BYTES))
    writer.add_file(MARK, b"1\n")
    return writer.finish()


def _undo_former(guest: Guest, say: Say) -> None:
    """Cut off what a former conversion appended, if the file still is what that conversion left."""
    if not guest.is_file(RECORD):
        return
    try:
        record = json.loads(decode(read(guest, RECORD, MAX_TEXT_BYTES)))
        former = [(str(path), int(one["old_size"]), int(one["added"])) for path, one in record.items()]
    except (ValueError, TypeError, KeyError, AttributeError):
        say(f"the record of a former conversion, {RECORD}, cannot be read; it is replaced")
        return
    for path, old_size, added in former[:MAX_KERNELS]:
        name = path.removeprefix("/boot/")
        known = "/" not in name and _INITRAMFS_NAME.match(name) and guest.is_file(path)
        if known and old_size > cpio.HEADER_BYTES and added > 0 and guest.size(path) == old_size + added:
            guest.truncate(path, old_size)
            say(f"{shown(path)}: the archive of a former conversion was removed")
