"""Look again at what is on the disk before success is said: nothing here trusts what the earlier steps
believe.

Raises Corrupt when something written is not there, Unsupported when the guest still depends on its old
hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

from coriolis.convert.guest import MAX_MODULE_BYTES, Guest, read, read_text
from coriolis.convert.linux import bootfiles, cpio, edits, esp, initramfs, modules
from coriolis.convert.linux.inject import Injection, needed_modules
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Say
from coriolis.convert.text import shown
from coriolis.errors import Corrupt, Unsupported


def verify(guest: Guest, platform: TargetPlatform, injections: Sequence[Injection], efi: bool, say: Say) -> None:
    """All checks, in the order in which a booting machine would need them."""
    if efi:
        _verify_fallback_loader(guest)
    _verify_boot_entries(guest, {one.version for one in injections}, say)
    for one in injections:
        _verify_initramfs(guest, platform, one)
    _verify_fstab(guest)


def _verify_fallback_loader(guest: Guest) -> None:
    top = edits.esp_directory(guest)
    if top is None or not esp.has_fallback(edits.esp_listing(guest, top)):
        raise Unsupported("the EFI system partition has no EFI/BOOT/BOOTX64.EFI and no loader known to make one from")


def _verify_boot_entries(guest: Guest, converted: set[str], say: Say) -> None:
    entries: list[bootfiles.BootEntry] = []
    for path in edits.boot_configs(guest):
        text = read_text(guest, path)
        unstable = bootfiles.unstable_arguments(text)
        if unstable:
            raise Unsupported(f"{shown(path)} still names a disk by its old bus: {shown(unstable[0])}")
        entries += bootfiles.boot_entries(text)
    if not entries:
        raise Unsupported("no boot entry of a Linux kernel was found in the guest's GRUB configuration")
    if not any(entry.version in converted for entry in entries):
        raise Unsupported("no boot entry of the guest uses a kernel whose initramfs could be converted")
    if entries[0].version not in converted:
        say(f"the first boot entry, kernel {shown(entries[0].version)}, was not converted: choose another")


def _verify_initramfs(guest: Guest, platform: TargetPlatform, one: Injection) -> None:
    """The archive on the disk holds each needed module under the name that ``modules.dep`` gives it, byte for
    byte.
    """
    if guest.size(one.path) != one.old_size + one.added:
        raise Corrupt(f"{shown(one.path)} does not have the size it was given")
    appended = guest.read_at(one.path, one.old_size, one.added)
    padding = len(appended) - len(appended.lstrip(b"\0"))
    last = initramfs.segments(lambda at, n: guest.read_at(one.path, at, n), one.old_size)[-1]
    if last.kind != "lz4" and (one.old_size + padding) % 4:
        raise Corrupt(f"the archive appended to {shown(one.path)} is not aligned; the kernel would skip it")
    archive = initramfs.archive_in(appended)
    present = {member.name: member.data for member in cpio.members(archive)}
    tree = f"lib/modules/{one.version}"
    for path in needed_modules(guest, platform, one.version).paths:
        if bytes(present.get(f"{tree}/{path}", b"")) != read(guest, f"/{tree}/{path}", MAX_MODULE_BYTES):
            raise Corrupt(f"{shown(one.path)} lacks the module {modules.module_name(path)} after conversion")
    for index in ("modules.dep.bin", "modules.alias.bin"):
        if not present.get(f"{tree}/{index}"):
            raise Unsupported(f"kernel {shown(one.version)} of the guest has no {index}: drivers would not be found")


def _verify_fstab(guest: Guest) -> None:
    unstable = bootfiles.unstable_fstab_lines(read_text(guest, "/etc/fstab"))
    if unstable:
        raise Unsupported(f"the guest's fstab needs a disk by its old name, and no UUID is known: {shown(unstable[0])}")
