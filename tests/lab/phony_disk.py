"""Make a disk of a phony Linux guest: ``make_phony_linux [options] GUEST OUTPUT``; ``--list`` names the guests.

Right for inspection and for conversion, not bootable. It has a real package database (dpkg's status, or one made by
rpm(8) from packages built here), busybox as its shell, and stand-ins for package tools that write how they were called
to /var/log/phony-calls.log. With ``--plain`` root and /boot are ext4 on partitions, made without an appliance; else the
root lies in LVM with the file system of the distribution's installer, made in libguestfs's.

Needs root, e2fsprogs, fdisk, qemu-utils, busybox-static, for the rpm families rpm and cpio, without --plain
python3-guestfs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.phony_distros import DISTROS, Distro
from tests.lab.phony_files import link, put
from tests.lab.phony_rpm import rpm_database
from tests.lab.phony_tree import Disk, build, disk_for, group_and_volume

MIB = 1 << 20
BOOT_AT, BOOT_BYTES = MIB, 200 * MIB
ROOT_AT, ROOT_BYTES = BOOT_AT + BOOT_BYTES, 700 * MIB
ESP_BYTES = 100 * MIB
BUSYBOX = Path("/bin/busybox")
_STUB = """#!/bin/sh
# stand-in: writes down how it was called
echo "{name} $*" >>/var/log/phony-calls.log
"""
_DEB_STUBS = ("apt-get", "dpkg", "update-initramfs", "update-grub", "grub-mkconfig")
_RPM_STUBS = ("rpm", "dracut", "grub2-mkconfig")
_NOT_BUSYBOX = ("dpkg", "dpkg-deb", "rpm", "rpm2cpio", "init", "reboot", "poweroff", "modprobe", "busybox")


def tools(top: Path, distro: Distro) -> None:
    """busybox under all its names, and the stand-ins."""
    shutil.copy(BUSYBOX, top / "usr/bin/busybox")
    names = subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    for name in names:
        if name not in _NOT_BUSYBOX and not os.path.lexists(top / "usr/bin" / name):
            link(top, f"/usr/bin/{name}", "busybox")
    if not distro.merged_usr:
        link(top, "/bin/sh", "../usr/bin/busybox")
    for name in _DEB_STUBS if distro.is_deb else (*_RPM_STUBS, distro.manager):
        put(top, f"/usr/bin/{name}", _STUB.format(name=name), 0o755)


def tree(top: Path, key: str, disk: Disk) -> None:
    distro = DISTROS[key]
    build(top, distro, key, disk)
    tools(top, distro)
    if not distro.is_deb:
        rpm_database(top, distro)


def make_plain(key: str, output: Path, alter: Callable[[Path, Path], None] = lambda root, boot: None) -> None:
    """A raw disk with /boot and the root as ext4 on partitions, in a second or two. ``alter`` gets both directories."""
    distro = DISTROS[key]
    with tempfile.TemporaryDirectory(prefix="phony.") as name:
        top, boot = Path(name) / "root", Path(name) / "boot"
        tree(top, key, disk_for(distro, key, lvm=False))
        (top / "boot").rename(boot)
        (top / "boot").mkdir()
        alter(top, boot)
        with output.open("wb") as file:
            file.truncate(ROOT_AT + ROOT_BYTES + MIB)
        places = ((boot, BOOT_AT, BOOT_BYTES), (top, ROOT_AT, ROOT_BYTES))
        table = "".join(f"start={at // 512}, size={size // 512}\n" for _, at, size in places)
        subprocess.run(["sfdisk", "-q", output], input=f"label: dos\n{table}", text=True, check=True)
        for directory, at, size in places:
            command = [
                "mke2fs",
                "-q",
                "-F",
                "-t",
                "ext4",
                "-E",
                f"offset={at}",
                "-d",
                directory,
                output,
                f"{size >> 10}k",
            ]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def make_lvm(key: str, output: Path, *, efi: bool) -> None:
    """A raw disk as the distribution's installer would lay it out, made in an appliance."""
    distro = DISTROS[key]
    with tempfile.TemporaryDirectory(prefix="phony.") as name:
        top = Path(name) / "root"
        tree(top, key, disk_for(distro, key, efi=efi))
        with output.open("wb") as file:
            file.truncate(ESP_BYTES + ROOT_AT + ROOT_BYTES)
        handle = _appliance(output)
        try:
            _fill(handle, top, distro, key, efi)
            handle.umount_all()
            handle.shutdown()
        finally:
            handle.close()


def _appliance(disk: Path) -> Any:
    import guestfs

    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    handle.set_backend_settings(["force_tcg"])
    handle.add_drive_opts(str(disk), format="raw", cachemode="unsafe")
    handle.launch()
    return handle


def _fill(handle: Any, top: Path, distro: Distro, key: str, efi: bool) -> None:
    handle.part_init("/dev/sda", "gpt" if efi else "mbr")
    at = 2048
    for size in ([ESP_BYTES] if efi else []) + [BOOT_BYTES]:
        handle.part_add("/dev/sda", "p", at, at + size // 512 - 1)
        at += size // 512
    handle.part_add("/dev/sda", "p", at, -2048)
    boot = 2 if efi else 1
    if efi:
        handle.part_set_gpt_type("/dev/sda", 1, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
        handle.mkfs("vfat", "/dev/sda1")
    group, volume = group_and_volume(distro, key)
    handle.mkfs("ext4", f"/dev/sda{boot}")
    handle.pvcreate(f"/dev/sda{boot + 1}")
    handle.vgcreate(group, [f"/dev/sda{boot + 1}"])
    handle.lvcreate_free(volume, group, 90)
    # an appliance without xfsprogs makes no XFS; nothing in a conversion depends on it
    kind = "ext4" if distro.file_system == "xfs" and not handle.feature_available(["xfs"]) else distro.file_system
    handle.mkfs(kind, f"/dev/{group}/{volume}")
    handle.mount(f"/dev/{group}/{volume}", "/")
    handle.mkdir("/boot")
    handle.mount(f"/dev/sda{boot}", "/boot")
    if efi:
        handle.mkdir("/boot/efi")
        handle.mount("/dev/sda1", "/boot/efi")
    archive = top.with_suffix(".tar")
    subprocess.run(["tar", "-C", top, "-cf", archive, "--exclude=./boot/efi/*", "."], check=True)
    handle.tar_in(str(archive), "/")
    if efi:
        handle.copy_in(str(top / "boot/efi/EFI"), "/boot/efi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--firmware", choices=["bios", "uefi"], default="bios")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--format", choices=["raw", "qcow2"], default="qcow2")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("guest", nargs="?", choices=sorted(DISTROS))
    parser.add_argument("output", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.list or not arguments.output:
        print(" ".join(sorted(DISTROS)))
        return
    raw = arguments.output.with_suffix(".making")
    try:
        if arguments.plain:
            make_plain(arguments.guest, raw)
        else:
            make_lvm(arguments.guest, raw, efi=arguments.firmware == "uefi")
        command = ["qemu-img", "convert", "-f", "raw", "-O", arguments.format, str(raw), str(arguments.output)]
        subprocess.run(command, check=True)
    finally:
        raw.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
