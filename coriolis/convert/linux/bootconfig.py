"""Apply the pure edits of ``bootfiles`` and ``esp`` to the guest's boot configuration."""

from __future__ import annotations

from collections.abc import Callable

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import bootfiles, esp, kernels, lvm
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Say
from coriolis.convert.text import encode, shown
from coriolis.errors import Unsupported

GRUB_CONFIGS = (
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
)
BLS_DIRECTORIES = ("/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries")
COMMAND_LINE_FILES = (
    "/etc/kernel/cmdline",
    "/etc/initramfs-tools/conf.d/resume",
    "/etc/sysconfig/grub",
    "/boot/grub2/custom.cfg",
    "/boot/grub/custom.cfg",
)
DRACUT_DRIVERS = "/etc/dracut.conf.d/coriolis.conf"
MAX_BLS_FILES = 100
_DEVICE_LISTS = ("/boot/grub/device.map", "/boot/grub2/device.map", "/etc/lvm/devices/system.devices")
_ESP_MOUNTS = (("/boot/efi", ("EFI", "efi")), ("/efi", ("EFI", "efi")), ("/boot", ("EFI",)))


def boot_configs(guest: Guest) -> list[str]:
    """Files with boot entries that exist, on the ESP too."""
    entries = [f"{top}/{name}" for top in BLS_DIRECTORIES for name in guest.listdir(top) if name.endswith(".conf")][
        :MAX_BLS_FILES
    ]
    return [path for path in (*GRUB_CONFIGS, *_on_esp(guest, "grub.cfg"), *entries) if guest.is_file(path)]


def environment_blocks(guest: Guest) -> list[str]:
    """GRUB's environment blocks, each once where one is a link to another."""
    paths = ["/boot/grub2/grubenv", "/boot/grub/grubenv", *_on_esp(guest, "grubenv")]
    return [path for path in paths if guest.is_file(path)]


def _on_esp(guest: Guest, name: str) -> list[str]:
    top = esp_directory(guest)
    return [f"{top}/{vendor}/{name}" for vendor in guest.listdir(top)] if top else []


def edit_boot_files(guest: Guest, platform: TargetPlatform, say: Say) -> None:
    """Disk names to UUIDs, driver lists for later native rebuilds, stale device lists out of the way."""
    _edit(guest, "/etc/fstab", lambda text: bootfiles.fstab_by_uuid(text, guest.uuid_of), say)
    _edit(guest, "/etc/crypttab", lambda text: bootfiles.crypttab_by_uuid(text, guest.uuid_of), say)
    for path in (*boot_configs(guest), *COMMAND_LINE_FILES):
        _edit(guest, path, lambda text: bootfiles.kernel_arguments_by_uuid(text, guest.uuid_of), say)
    for path in environment_blocks(guest):
        _edit(guest, path, lambda text: bootfiles.grubenv_by_uuid(text, guest.uuid_of), say)
    defaults = [f"/etc/default/grub.d/{name}" for name in guest.listdir("/etc/default/grub.d")]
    for path in ("/etc/default/grub", *(path for path in defaults if path.endswith(".cfg"))):
        _edit(guest, path, lambda text: bootfiles.grub_defaults(text, guest.uuid_of), say)
    _edit(guest, "/etc/lvm/lvm.conf", lvm.without_old_filters, say)
    list_drivers(guest, platform, say)
    for path in _DEVICE_LISTS:
        if guest.is_file(path):
            guest.rename(path, f"{path}.before-migration")
            say(f"{path}: moved aside, it lists the old disks")


def list_drivers(guest: Guest, platform: TargetPlatform, say: Say) -> None:
    """The next initramfs that the guest makes itself must have the drivers too."""
    wanted = (*platform.initramfs_modules, *platform.network)
    _edit(guest, "/etc/initramfs-tools/modules", lambda text: bootfiles.with_modules(text, wanted), say)
    _edit(guest, "/etc/sysconfig/kernel", lambda text: bootfiles.with_initrd_modules(text, wanted), say)
    if guest.is_dir("/etc/dracut.conf.d"):
        text = bootfiles.with_drivers(kernels.loadable(guest, wanted))
        if text != read_text(guest, DRACUT_DRIVERS):
            guest.write(DRACUT_DRIVERS, encode(text))
            say(f"{DRACUT_DRIVERS}: written")


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
