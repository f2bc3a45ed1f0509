"""The names that a guest may give its disks."""

from __future__ import annotations

import pytest

from coriolis.convert.linux.devices import Devices, array_names, mapped_names

TAGS = {
    "/dev/sda1": {"UUID": "b0-0t", "LABEL": "boot", "PARTUUID": "0000-01"},
    "/dev/sda2": {"UUID": "c4-y9", "PARTLABEL": "data part"},
    "/dev/vg-0/root": {"UUID": "10-05"},
    "/dev/md127": {"UUID": "3d-00"},
}


def devices(disks: int = 1) -> Devices:
    return Devices(TAGS, disks)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("UUID=B0-0T", "/dev/sda1"),
        ('UUID="b0-0t"', "/dev/sda1"),
        ("LABEL=boot", "/dev/sda1"),
        ("LABEL=BOOT", None),
        ("PARTUUID=0000-01", "/dev/sda1"),
        ("/dev/disk/by-uuid/c4-y9", "/dev/sda2"),
        (r"/dev/disk/by-partlabel/data\x20part", "/dev/sda2"),
        ("/dev/vda1", "/dev/sda1"),
        ("/dev/mapper/vg--0-root", "/dev/vg-0/root"),
        ("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part2", "/dev/sda2"),
        ("/dev/disk/by-id/wwn-0x6000c29abc-part1", "/dev/sda1"),
        ("/dev/disk/by-id/lvm-pv-uuid-x-part1", None),
        ("/dev/mapper/mpatha2", "/dev/sda2"),
        ("/dev/mapper/mpathb-part1", "/dev/sda1"),
        ("/dev/sdb1", None),
        ("/dev/mapper/luks-1", None),
    ],
)
def test_names_lead_to_devices(name: str, device: str | None) -> None:
    assert devices().find(name) == device


def test_with_several_disks_a_path_says_nothing() -> None:
    assert devices(2).find("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part2") is None
    assert devices(2).find("/dev/mapper/mpatha2") is None


def test_a_uuid_of_two_devices_is_nobodys() -> None:
    both = Devices({"/dev/sda1": {"UUID": "x"}, "/dev/sdb1": {"UUID": "x"}}, 2)
    assert both.uuid_of("/dev/sda1") is None
    assert both.find("UUID=x") is None
    assert both.doubled() == ["x"]


def test_a_hostile_uuid_is_none() -> None:
    assert Devices({"/dev/sda1": {"UUID": "x init=/bin/sh"}}, 1).uuid_of("/dev/sda1") is None


def test_names_of_opened_devices_come_from_crypttab() -> None:
    table = "# x\nsda2_crypt UUID=c4-y9 none luks\nother /dev/sdz1 none\nshort\n"
    opened = {"/dev/sda2": "/dev/mapper/coriolis-luks-0"}
    assert mapped_names(table, opened, devices().find) == {"/dev/mapper/sda2_crypt": "/dev/mapper/coriolis-luks-0"}


def test_names_of_arrays_come_from_mdadm_conf() -> None:
    text = "DEVICE partitions\nARRAY /dev/md/0 metadata=1.2\n   UUID=11:22:33 name=a:0\nARRAY /dev/md5 UUID=ff\n"
    assert array_names(text, {"112233": "/dev/md127"}) == {"/dev/md/0": "/dev/md127", "/dev/md0": "/dev/md127"}
