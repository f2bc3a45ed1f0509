from __future__ import annotations

import pytest

from coriolis.convert.linux import detect
from coriolis.convert.linux.detect import Root
from coriolis.errors import Unsupported

FSTAB = """
/dev/mapper/vg0-root / ext4 defaults 0 1
UUID=AB-CD  /boot/efi vfat umask=0077 0 1
/dev/sda1 /boot/ ext4 defaults 0 2
/dev/sda9 /var ext4 defaults 0 2
/dev/sda5 /home ext4 defaults 0 2
"""


def test_mounts_come_in_order_and_only_those_needed() -> None:
    devices = {"UUID=AB-CD": "/dev/sda2", "/dev/sda1": "/dev/sda1"}
    points, messages = detect.mounts(Root("/dev/vg0/root", FSTAB, ""), devices.get)
    assert points == [("/", "/dev/vg0/root"), ("/boot", "/dev/sda1"), ("/boot/efi", "/dev/sda2")]
    assert messages == ["fstab mounts /dev/sda9 on /var, but no disk has it"]


def test_no_root_and_several_roots_are_refused() -> None:
    one = Root("/dev/sda1", "", "")
    assert detect.only_root([one], encrypted=False) is one
    with pytest.raises(Unsupported, match="2 Linux systems"):
        detect.only_root([one, Root("/dev/sdb1", "", "")], encrypted=False)
    with pytest.raises(Unsupported, match="encrypted"):
        detect.only_root([], encrypted=True)


@pytest.mark.parametrize(
    ("guest", "appliance"),
    [
        ("/dev/vdb1", "/dev/sdb1"),
        ("/dev/nvme1n1p3", "/dev/sdb3"),
        ("/dev/nvme0n1", "/dev/sda"),
        ("/dev/sda1", "/dev/sda1"),
        ("/dev/vg0/root", "/dev/vg0/root"),
    ],
)
def test_device_names(guest: str, appliance: str) -> None:
    assert detect.appliance_device(guest) == appliance


def test_mapper_names_unfold_doubled_dashes() -> None:
    assert detect.same_lvm("/dev/mapper/vg--a-root--b") == "/dev/vg-a/root-b"
    assert detect.same_lvm("/dev/mapper/crypt") == "/dev/mapper/crypt"
