"""The full way: the guest's own tools make each initramfs anew inside the appliance.

For images to which nothing can be appended. The guest's code runs there as root of its own tree, without a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coriolis.convert.guest import Guest
from coriolis.convert.linux import inject, kernels
from coriolis.convert.linux.family import LinuxFamily
from coriolis.convert.linux.kernels import Initramfs
from coriolis.convert.platforms import TargetPlatform
from coriolis.convert.plugin import Say
from coriolis.convert.text import encode, shown
from coriolis.errors import CoriolisError, Unsupported

REBUILD_TIMEOUT_S = 600.0  # of one kernel; 72 to 191 s were measured with emulation
LOADER_TIMEOUT_S = 300.0
AUTORELABEL = "/.autorelabel"
_DIRECTORIES = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_FOR_THIS_RUN = "/etc/dracut.conf.d/zz-coriolis-rebuild.conf"
# The disks that dracut would look at are those of the appliance.
_GENERIC_IMAGE = (
    b'hostonly="no"\nhostonly_cmdline="no"\nearly_microcode="yes"\npersistent_policy="by-uuid"\nadd_drivers+=" %s "\n'
)
_OTHERS = (
    ("update-initramfs", "-c", "-k", "{version}"),
    ("dracut", "--force", "{path}", "{version}"),
    ("mkinitrd", "-k", "{kernel}", "-i", "{path}"),
)
_NEW_PATHS = {
    "update-initramfs": "/boot/initrd.img-{}",
    "dracut": "/boot/initramfs-{}.img",
    "mkinitrd": "/boot/initrd-{}",
}


def command_for(guest: Guest, family: LinuxFamily) -> tuple[str, ...]:
    """The family's own command, or another one that the guest has; empty when it has none."""
    for command in (family.rebuild, *_OTHERS):
        if command and find_program(guest, command[0]):
            return command
    return ()


def find_program(guest: Guest, name: str) -> str:
    """Where the guest has a program, empty when it has not."""
    return next((f"{top}/{name}" for top in _DIRECTORIES if guest.is_file(f"{top}/{name}")), "")


def rebuild_all(
    guest: Guest, family: LinuxFamily, platform: TargetPlatform, found: kernels.Kernels, say: Say
) -> list[Initramfs]:
    """Make the initramfs of each kernel anew; where each is.

    Raises Unsupported when the guest has no tool or a kernel lacks a driver, Unavailable when the tool fails, TimedOut.
    """
    command = command_for(guest, family)
    if not command:
        raise Unsupported("the guest has no tool known here that makes an initramfs")
    images = list(found.images)
    images += [Initramfs(_NEW_PATHS[command[0]].format(version), version) for version in found.bare]
    if not images:
        raise Unsupported("no kernel with a module tree was found in the guest's /boot")
    for one in images:
        kernels.needed_modules(guest, platform, one.version)
    inject.undo(guest, say)
    with _for_this_run(guest, platform):
        for one in images:
            words = [word.format(version=one.version, path=one.path, kernel=_kernel(guest, one)) for word in command]
            if one.version in found.bare:
                words = ["-c" if word == "-u" else word for word in words]  # update-initramfs: there is none to update
            say(f"{shown(one.path)}: made anew by the guest's own {command[0]}")
            guest.run(words, timeout_s=REBUILD_TIMEOUT_S)
    if guest.is_file("/etc/selinux/config"):
        guest.write(AUTORELABEL, b"")  # what the guest's tools wrote here carries no labels
        say("SELinux relabels the guest's files at its first start")
    return images


def rebuild_loader(guest: Guest, family: LinuxFamily, say: Say) -> None:
    """Let the guest write its boot loader's configuration anew; a failure is told, for the old one still holds."""
    for command in family.rebuild_loader:
        if find_program(guest, command[0]):
            try:
                guest.run(command, timeout_s=LOADER_TIMEOUT_S)
                say(f"boot loader: {command[0]} ran")
            except CoriolisError as error:
                say(f"boot loader: {command[0]} failed, the old configuration stays: {error.message}")
            return


def _kernel(guest: Guest, one: Initramfs) -> str:
    names = (f"/boot/{name}-{one.version}" for name in ("vmlinuz", "vmlinux", "Image"))
    return next((path for path in names if guest.is_file(path)), f"/boot/vmlinuz-{one.version}")


@contextmanager
def _for_this_run(guest: Guest, platform: TargetPlatform) -> Iterator[None]:
    """dracut's settings that hold while it runs in the appliance only."""
    if not guest.is_dir("/etc/dracut.conf.d"):
        yield
        return
    names = " ".join(kernels.loadable(guest, platform.initramfs_modules))
    guest.write(_FOR_THIS_RUN, _GENERIC_IMAGE % encode(names))
    try:
        yield
    finally:
        guest.remove(_FOR_THIS_RUN)
