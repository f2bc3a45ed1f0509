"""Apply the pure edits to the guest's files: boot configuration, driver lists, NIC names, fallback loader."""

from __future__ import annotations

from collections.abc import Callable

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import bootfiles, esp
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Say
from coriolis.convert.text import encode, shown
from coriolis.errors import Unsupported

GRUB_CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub/menu.lst", "/boot/grub/grub.conf")
BLS_DIRECTORY = "/boot/loader/entries"
COMMAND_LINE_FILES = ("/etc/kernel/cmdline", "/etc/initramfs-tools/conf.d/resume")
MAX_BLS_FILES = 100
_DEVICE_LISTS = ("/boot/grub/device.map", "/boot/grub2/device.map", "/etc/lvm/devices/system.devices")
_ESP_MOUNTS = (("/boot/efi", ("EFI", "efi")), ("/efi", ("EFI", "efi")), ("/boot", ("EFI",)))


def boot_configs(guest: Guest) -> list[str]:
    """Files with boot entries that exist, on the ESP too."""
    entries = [name for name in guest.listdir(BLS_DIRECTORY) if name.endswith(".conf")][:MAX_BLS_FILES]
    candidates = [*GRUB_CONFIGS, *(f"{BLS_DIRECTORY}/{name}" for name in entries)]
    return [path for path in candidates if guest.is_file(path)]


def edit_boot_files(guest: Guest, platform: TargetPlatform, say: Say) -> None:
    """Disk names to UUIDs, driver lists for later native rebuilds, stale device lists out of the way."""
    _edit(guest, "/etc/fstab", lambda text: bootfiles.fstab_by_uuid(text, guest.uuid_of), say)
    for path in (*boot_configs(guest), *COMMAND_LINE_FILES):
        _edit(guest, path, lambda text: bootfiles.kernel_arguments_by_uuid(text, guest.uuid_of), say)
    _edit(guest, "/etc/default/grub", lambda text: bootfiles.grub_defaults(text, guest.uuid_of), say)
    wanted = (*platform.initramfs_modules, *platform.network)
    _edit(guest, "/etc/initramfs-tools/modules", lambda text: bootfiles.with_modules(text, wanted), say)
    for path in _DEVICE_LISTS:
        if guest.is_file(path):
            guest.rename(path, f"{path}.before-migration")
            say(f"{path}: moved aside, it lists the old disks")


def add_fallback_loader(guest: Guest, say: Say) -> None:
    """Make ``EFI/BOOT/BOOTX64.EFI``. Raises Unsupported when no ESP is mounted."""
    top = esp_directory(guest)
    if top is None:
        raise Unsupported("the machine boots by EFI, but the guest's fstab mounts no EFI system partition")
    for source, destination in esp.fallback_copies(esp_listing(guest, top)):
        guest.copy(f"{top}/{source}", f"{top}/{destination}")
        say(f"EFI fallback: {shown(source)} copied to {shown(destination)}")


def esp_directory(guest: Guest) -> str | None:
    """Where the guest's ``EFI`` directory is; ``/boot/efi`` itself is not one."""
    for mount, names in _ESP_MOUNTS:
        for name in names:
            if name in guest.listdir(mount) and guest.is_dir(f"{mount}/{name}"):
                return f"{mount}/{name}"
    return None


def esp_listing(guest: Guest, top: str) -> dict[str, list[str]]:
    return {name: guest.listdir(f"{top}/{name}") for name in guest.listdir(top) if guest.is_dir(f"{top}/{name}")}


def _edit(guest: Guest, path: str, change: Callable[[str], str], say: Say) -> None:
    if not guest.is_file(path):
        return
    old = read_text(guest, path)
    new = change(old)
    if new != old:
        guest.write(path, encode(new))
        say(f"{shown(path)}: edited")
