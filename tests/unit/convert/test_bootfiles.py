from __future__ import annotations

import pytest

from coriolis.convert.linux import bootfiles
from coriolis.convert.linux.detect import appliance_device
from coriolis.errors import Unsupported

UUIDS = {"/dev/sda1": "1111-1111", "/dev/sda2": "2222-2222", "/dev/sdb1": "3333-3333"}


def uuid_of(device: str) -> str | None:
    return UUIDS.get(appliance_device(device))


def test_fstab_keeps_everything_but_the_names() -> None:
    old = "# /dev/sda1 was the root\n/dev/sda1\t/ ext4 defaults 0 1\n  /dev/sda2 none swap sw\nUUID=x /x ext4\n"
    new = (
        "# /dev/sda1 was the root\nUUID=1111-1111\t/ ext4 defaults 0 1\n  UUID=2222-2222 none swap sw\nUUID=x /x ext4\n"
    )
    assert bootfiles.fstab_by_uuid(old, uuid_of) == new


@pytest.mark.parametrize("name", ["/dev/vda1", "/dev/xvda1", "/dev/hda1", "/dev/nvme0n1p1"])
def test_names_of_every_bus_are_the_same_disk(name: str) -> None:
    assert bootfiles.fstab_by_uuid(f"{name} / ext4\n", uuid_of) == "UUID=1111-1111 / ext4\n"


def test_unknown_disks_stay_and_are_reported() -> None:
    text = "/dev/sdz1 /data ext4 defaults 0 2\n/dev/sdy1 /usb ext4 noauto 0 0\n/dev/sdx1 /old ext4 nofail\n"
    assert bootfiles.fstab_by_uuid(text, uuid_of) == text
    assert bootfiles.unstable_fstab_lines(text) == ["/dev/sdz1 /data ext4 defaults"]


def test_by_path_names_are_unstable() -> None:
    assert bootfiles.unstable_fstab_lines("/dev/disk/by-path/pci-0000:03:00.0-part1 /x ext4 defaults\n")
    assert bootfiles.unstable_arguments("linux /vmlinuz root=/dev/disk/by-id/wwn-0x5 ro")


def test_kernel_arguments() -> None:
    old = "linux /boot/vmlinuz-1 root=/dev/sda1 resume=/dev/sda2 myroot=/dev/sda1 rootflags=x ro"
    new = "linux /boot/vmlinuz-1 root=UUID=1111-1111 resume=UUID=2222-2222 myroot=/dev/sda1 rootflags=x ro"
    assert bootfiles.kernel_arguments_by_uuid(old, uuid_of) == new
    assert bootfiles.unstable_arguments(old) == ["root=/dev/sda1", "resume=/dev/sda2"]
    assert bootfiles.unstable_arguments(new) == []


def test_logical_volumes_are_stable() -> None:
    line = "linux /vmlinuz root=/dev/mapper/vg0-root ro"
    assert bootfiles.kernel_arguments_by_uuid(line, uuid_of) == line
    assert bootfiles.unstable_arguments(line) == []


def test_grub_defaults_allow_uuids_again() -> None:
    old = 'GRUB_DISABLE_LINUX_UUID=true\nGRUB_CMDLINE_LINUX="root=/dev/sda1"\n'
    new = '#GRUB_DISABLE_LINUX_UUID=true\nGRUB_CMDLINE_LINUX="root=UUID=1111-1111"\n'
    assert bootfiles.grub_defaults(old, uuid_of) == new


def test_modules_are_added_once_even_without_a_last_newline() -> None:
    once = bootfiles.with_modules("vmw_pvscsi\nsd_mod opt=1", ["sd_mod", "virtio_blk"])
    assert once == "vmw_pvscsi\nsd_mod opt=1\nvirtio_blk\n"
    assert bootfiles.with_modules(once, ["sd_mod", "virtio_blk"]) == once


def test_boot_entries() -> None:
    text = "\tlinux\t/boot/vmlinuz-6.1.0-9-amd64 root=/dev/sda1 ro\n\tlinux16 /boot/memtest86+.bin\n"
    entries = bootfiles.boot_entries(text)
    assert [(entry.version, entry.arguments) for entry in entries] == [("6.1.0-9-amd64", "root=/dev/sda1 ro")]


def test_bytes_that_are_no_text_survive() -> None:
    from coriolis.convert.text import decode, encode

    raw = b"/dev/sda1 /caf\xe9 ext4\n"
    assert encode(bootfiles.fstab_by_uuid(decode(raw), uuid_of)) == b"UUID=1111-1111 /caf\xe9 ext4\n"


MENU_LST = """
default=0
title CentOS (2.6.32-754.el6.x86_64)
	root (hd0,0)
	kernel /vmlinuz-2.6.32-754.el6.x86_64 ro root=/dev/sda2 rd_NO_LUKS
	initrd /initramfs-2.6.32-754.el6.x86_64.img
"""
SYSLINUX = """
LABEL linux
  APPEND root=UUID=1-1 ro
  LINUX /boot/vmlinuz-5.10.0-1-amd64
LABEL old
  KERNEL /boot/vmlinuz-4.19.0-1-amd64
  APPEND root=/dev/sda1
"""


def test_entries_of_grub_legacy() -> None:
    (entry,) = bootfiles.boot_entries(MENU_LST)
    assert (entry.version, entry.root) == ("2.6.32-754.el6.x86_64", "/dev/sda2")


def test_entries_of_syslinux_whatever_the_order() -> None:
    found = [(entry.version, entry.root) for entry in bootfiles.boot_entries(SYSLINUX)]
    assert found == [("5.10.0-1-amd64", "UUID=1-1"), ("4.19.0-1-amd64", "/dev/sda1")]


def test_entries_of_the_boot_loader_specification() -> None:
    (entry,) = bootfiles.boot_entries("title x\nlinux /0123/6.8.9-300.fc40.x86_64/linux\noptions root=LABEL=r quiet\n")
    assert (entry.version, entry.root, entry.variable) == ("6.8.9-300.fc40.x86_64", "LABEL=r", False)


def test_the_last_root_counts() -> None:
    assert bootfiles.root_argument("root=/dev/a ro root=block:/dev/b rootflags=x") == "/dev/b"
    assert bootfiles.root_argument("subroot=/dev/a") == ""


def test_an_environment_block_keeps_its_size() -> None:
    head = "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro\n"
    block = head + "#" * (1024 - len(head))
    changed = bootfiles.grubenv_by_uuid(block, lambda _: "1111-1111")
    assert len(changed) == 1024
    assert changed.startswith("# GRUB Environment Block\nkernelopts=root=UUID=1111-1111 ro\n#")
    full = head + "x" * (1024 - len(head))
    with pytest.raises(Unsupported, match="no room"):
        bootfiles.grubenv_by_uuid(full, lambda _: "0" * 36)
    assert bootfiles.grubenv_by_uuid("hello root=/dev/sda1", lambda _: "1") == "hello root=/dev/sda1"


CRYPTTAB = """# root=/dev/sda9
root /dev/sda3 none luks,discard
swap /dev/sda4 /dev/urandom swap
data /dev/disk/by-id/scsi-1-part1 none noauto
good UUID=1 none luks
"""


def test_crypttab_by_uuid() -> None:
    known = {"/dev/sda3": "3-3"}
    assert "root UUID=3-3 none luks,discard\nswap /dev/sda4" in bootfiles.crypttab_by_uuid(CRYPTTAB, known.get)
    assert bootfiles.unstable_crypttab_lines(CRYPTTAB) == ["root /dev/sda3 none luks,discard"]


def test_devices_that_must_be_there_at_boot() -> None:
    text = "UUID=1 / ext4 x 0 1\n/dev/cdrom /m iso9660 ro 0 0\nproc /proc proc x 0 0\nLABEL=d /d xfs nofail 0 0\n"
    assert bootfiles.needed_devices(text) == ["UUID=1"]


def test_initrd_modules_of_older_suse() -> None:
    text = 'X="1"\nINITRD_MODULES="ext3 virtio_pci"\n'
    assert bootfiles.with_initrd_modules(text, ["virtio_pci", "virtio_blk"]).endswith('="ext3 virtio_pci virtio_blk"\n')
