from __future__ import annotations

import pytest

from coriolis.convert.linux import bootfiles
from coriolis.convert.linux.detect import appliance_device

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
