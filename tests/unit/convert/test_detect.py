from __future__ import annotations

import pytest

from coriolis.convert.linux import detect
from coriolis.convert.linux.detect import Mount, Root
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
    points, messages = detect.mounts(Root("/dev/vg0/root", FSTAB), devices.get)
    assert points == [Mount("/", "/dev/vg0/root"), Mount("/boot", "/dev/sda1"), Mount("/boot/efi", "/dev/sda2")]
    assert messages == ["fstab mounts /dev/sda9 on /var, but no disk has it"]


def test_no_root_and_several_roots_are_refused() -> None:
    one = Root("/dev/sda1", "")
    assert detect.only_root([one], []) is one
    with pytest.raises(Unsupported, match=r"2 Linux systems .*/dev/sda1, /dev/sdb1"):
        detect.only_root([one, Root("/dev/sdb1", "")], [])
    with pytest.raises(Unsupported, match=r"/dev/sda2 is encrypted .LUKS., and no given passphrase opens it"):
        detect.only_root([], ["/dev/sda2"])
    with pytest.raises(Unsupported, match="no file system has"):
        detect.only_root([], [])


BTRFS_FSTAB = """
UUID=1-1 / btrfs rw,subvol=@,compress=zstd 0 0
UUID=1-1 /var btrfs subvol=/@/var 0 0
UUID=1-1 /boot btrfs subvolid=258,user_subvol_rm_allowed 0 0
"""


def test_subvolumes_are_mounted_as_fstab_says() -> None:
    points, _ = detect.mounts(Root("btrfsvol:/dev/sda2/@", BTRFS_FSTAB), {"UUID=1-1": "/dev/sda2"}.get)
    assert points == [
        Mount("/", "btrfsvol:/dev/sda2/@"),
        Mount("/boot", "/dev/sda2", "subvolid=258"),
        Mount("/var", "/dev/sda2", "subvol=/@/var"),
    ]


def test_a_snapshot_of_a_root_is_no_root() -> None:
    names = ["btrfsvol:/dev/sda2/snapshots/1/@", "btrfsvol:/dev/sda2/home", "btrfsvol:/dev/sda2/@"]
    assert detect.root_subvolumes(names)[0] == "btrfsvol:/dev/sda2/@"
    assert detect.is_its_own_root(Root("btrfsvol:/dev/sda2/@", BTRFS_FSTAB))
    assert not detect.is_its_own_root(Root("btrfsvol:/dev/sda2/snapshots/1/@", BTRFS_FSTAB))
    assert detect.is_its_own_root(Root("/dev/sda1", BTRFS_FSTAB))
    assert detect.plain_device("btrfsvol:/dev/vg/root/@/x") == "/dev/vg/root"
    assert detect.plain_device("btrfsvol:/dev/sda2/@/.snapshots/1/snapshot") == "/dev/sda2"


def test_snapshots_do_not_count_as_file_systems() -> None:
    many = {f"btrfsvol:/dev/sda2/.snapshots/{n}/snapshot": "btrfs" for n in range(300)}
    plain, subvolumes = detect.split_file_systems({"/dev/sda2": "btrfs", **many})
    assert plain == {"/dev/sda2": "btrfs"}
    assert len(subvolumes) == 300
    with pytest.raises(Unsupported, match="200 file systems"):
        detect.split_file_systems({f"/dev/sda{n}": "ext4" for n in range(201)})


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
