"""Look again at what is on the disk before success is said: nothing here trusts what the earlier steps
believe.

Raises Corrupt when something written is not there, Unsupported when the guest still depends on its old
hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coriolis.convert.guest import MAX_MODULE_BYTES, Guest, read, read_text
from coriolis.convert.linux import bootconfig, bootfiles, cpio, esp, image, initramfs, kernels, kmod_index, modules
from coriolis.convert.linux.compression import plain_module
from coriolis.convert.linux.inject import Injection, recorded
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Facts, Job, Say
from coriolis.convert.text import shown
from coriolis.errors import Corrupt, Unsupported


def verify_boot(guest: Guest, job: Job, facts: Facts, say: Say) -> None:
    """All that a booting machine needs, in that order; images by the way that ``facts`` names."""
    if job.efi:
        _verify_fallback_loader(guest)
    verify_boot_entries(guest, set(facts.kernel_versions), say)
    if facts.way == "full":
        verify_rebuilt(guest, job.platform, facts.kernel_versions)
    else:
        verify_injections(guest, job.platform, recorded(guest))
    _verify_tables(guest, say)


def _verify_fallback_loader(guest: Guest) -> None:
    top = bootconfig.esp_directory(guest)
    if top is None or not esp.has_fallback(bootconfig.esp_listing(guest, top)):
        raise Unsupported("the EFI system partition has no EFI/BOOT/BOOTX64.EFI and no loader known to make one from")


def verify_boot_entries(guest: Guest, converted: set[str], say: Say) -> None:
    """Every entry of a converted kernel names a root that a disk of the guest carries."""
    entries: list[bootfiles.BootEntry] = []
    texts = {path: read_text(guest, path) for path in bootconfig.boot_configs(guest)}
    blocks = {path: read_text(guest, path) for path in bootconfig.environment_blocks(guest)}
    for path, text in {**texts, **blocks}.items():
        unstable = bootfiles.unstable_arguments(text)
        if unstable:
            raise Unsupported(f"{shown(path)} still names a disk by its old bus: {shown(unstable[0])}")
    for text in texts.values():
        entries += bootfiles.boot_entries(text)
    if not entries:
        raise Unsupported("no boot entry of a Linux kernel was found in the guest's boot configuration")
    used = [entry for entry in entries if entry.version in converted]
    if not used:
        raise Unsupported("no boot entry of the guest uses a kernel whose initramfs could be converted")
    if entries[0].version not in converted:
        say(f"the first boot entry, kernel {shown(entries[0].version)}, was not converted: choose another")
    for version in sorted({entry.version for entry in entries} - converted):
        say(f"boot entries of kernel {shown(version) or 'without a version'} are as they were")
    options = [found for text in (*blocks.values(), *texts.values()) if (found := bootfiles.kernel_options(text))]
    for entry in used:
        _verify_root(guest, entry, options, say)


def _verify_root(guest: Guest, entry: bootfiles.BootEntry, options: Sequence[str], say: Say) -> None:
    roots = [entry.root] if entry.root else []
    if not roots and entry.variable:
        roots = [root for one in options if (root := bootfiles.root_argument(one))]
    if not roots:
        say(f"a boot entry of kernel {shown(entry.version)} names no root: the guest finds it by itself")
    for root in roots:
        if "$" not in root and not guest.has_device(root):
            raise Unsupported(
                f"a boot entry of kernel {shown(entry.version)} has root={shown(root)}, which no disk of the guest has"
            )


def verify_injections(guest: Guest, platform: TargetPlatform, injections: Sequence[Injection]) -> None:
    """Each archive is on the disk, whole, aligned, and with what the kernel needs."""
    if not injections:
        raise Corrupt("the record of this conversion names no initramfs")
    for one in injections:
        _verify_injection(guest, platform, one)


def _verify_injection(guest: Guest, platform: TargetPlatform, one: Injection) -> None:
    """The image holds each needed module under the name that its index gives it, byte for byte."""
    if guest.size(one.path) != one.old_size + one.added:
        raise Corrupt(f"{shown(one.path)} does not have the size it was given")
    appended = guest.read_at(one.path, one.old_size, one.added)
    padding = len(appended) - len(appended.lstrip(b"\0"))
    old = guest.read_at(one.path, 0, one.old_size) if one.index == "merged" else b""
    last = initramfs.segments(lambda at, n: old[at : at + n] or guest.read_at(one.path, at, n), one.old_size)[-1]
    if last.kind != "lz4" and (one.old_size + padding) % 4:
        raise Corrupt(f"the archive appended to {shown(one.path)} is not aligned; the kernel would skip it")
    files = image.files_of(old) if old else {}
    files |= {member.name: member for member in cpio.members(initramfs.archive_in(appended))}
    needed = kernels.needed_modules(guest, platform, one.version)
    top, tree = f"lib/modules/{one.version}", f"/lib/modules/{one.version}"
    for index in ("modules.dep.bin", "modules.alias.bin"):
        if f"{top}/{index}" not in files or not files[f"{top}/{index}"].data:
            raise Unsupported(f"kernel {shown(one.version)} of the guest has no {index}: drivers would not be found")
    if one.index == "full":  # the guest's own index, whose names are those of its own tree
        places = {modules.module_name(path): path for path in needed.paths}
    else:
        places = _indexed(files, one.version)
    for path in needed.paths:
        name = modules.module_name(path)
        held = files.get(f"{top}/{places.get(name, '')}")
        wanted = plain_module(path, read(guest, f"{tree}/{path}", MAX_MODULE_BYTES), MAX_MODULE_BYTES)
        if held is None or plain_module(places[name], bytes(held.data), MAX_MODULE_BYTES) != wanted:
            raise Corrupt(f"{shown(one.path)} lacks the module {name} after conversion")


def verify_rebuilt(guest: Guest, platform: TargetPlatform, versions: Sequence[str]) -> None:
    """The images that the guest's own tools made: whole, and with each needed module in their index."""
    images = [one for one in kernels.installed(guest).images if one.version in versions]
    if set(versions) - {one.version for one in images} or not images:
        raise Corrupt("the guest's own tools left no initramfs for a kernel that they were run for")
    for one in images:
        files = image.files_of(read(guest, one.path, initramfs.MAX_INITRAMFS_BYTES))
        places = _indexed(files, one.version)
        for name in kernels.needed_modules(guest, platform, one.version).names:
            path = f"lib/modules/{one.version}/{places.get(name, '')}"
            if path not in files:
                raise Unsupported(f"{shown(one.path)}, made by the guest's own tools, lacks the module {name}")


def _indexed(files: Mapping[str, cpio.Member], version: str) -> dict[str, str]:
    """Module name -> path below its tree, as ``modules.dep.bin`` of the image has it."""
    index = files.get(f"lib/modules/{version}/modules.dep.bin")
    if index is None:
        raise Unsupported(f"an initramfs of kernel {shown(version)} has no modules.dep.bin")
    entries = kmod_index.entries(bytes(index.data))
    return {name: value.partition(":")[0] for name, value in entries.items()}


def _verify_tables(guest: Guest, say: Say) -> None:
    text = read_text(guest, "/etc/fstab")
    unstable = bootfiles.unstable_fstab_lines(text)
    if unstable:
        raise Unsupported(f"the guest's fstab needs a disk by its old name, and no UUID is known: {shown(unstable[0])}")
    unstable = bootfiles.unstable_crypttab_lines(read_text(guest, "/etc/crypttab"))
    if unstable:
        raise Unsupported(f"the guest's crypttab needs a disk by its old name: {shown(unstable[0])}")
    resume = bootfiles.unstable_arguments(read_text(guest, "/etc/initramfs-tools/conf.d/resume"))
    if resume:
        raise Unsupported(f"the guest resumes from a disk by its old name, and no UUID is known: {shown(resume[0])}")
    for device in bootfiles.needed_devices(text):
        if not guest.has_device(device):
            say(f"fstab names {shown(device)}, which no disk of the guest has: the guest waited for it before, too")
