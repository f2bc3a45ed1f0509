"""What a guest's root may lie on, made and found again in one real appliance: btrfs, two disks, md, LVM on LUKS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coriolis.convert.mount import mount_guest
from coriolis.errors import TimedOut, Unavailable, Unsupported

guestfs = pytest.importorskip("guestfs")
pytestmark = [pytest.mark.lab, pytest.mark.full, pytest.mark.timeout(600)]

DISK_BYTES = 700 << 20
RELEASE = b"ID=debian\n"


@pytest.fixture(scope="module")
def handle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An appliance with two empty disks; every test partitions them anew."""
    from coriolis.convert.guestfs_guest import launched

    disks = []
    for number in range(2):
        disk = tmp_path_factory.mktemp("disks") / f"{number}.qcow2"
        guestfs.GuestFS(python_return_dict=True).disk_create(str(disk), "qcow2", DISK_BYTES)
        disks.append(str(disk))
    with launched(disks, "tcg", 2048) as opened:
        yield opened


@pytest.fixture
def empty(handle: Any) -> Any:
    """The appliance with both disks wiped."""
    handle.umount_all()
    handle.lvm_remove_all()
    for device in handle.list_dm_devices():
        handle.cryptsetup_close(device)
    for device in handle.list_md_devices():
        handle.md_stop(device)
    for disk in ("/dev/sda", "/dev/sdb"):
        for device in [one for one in handle.list_partitions() if one.startswith(disk)]:
            handle.wipefs(device)
            handle.zero(device)
        handle.wipefs(disk)
        handle.part_init(disk, "gpt")
        handle.part_add(disk, "p", 2048, 409600)
        handle.part_add(disk, "p", 411648, -2048)
    return handle


def write_root(handle: Any, fstab: str, release: str = "/etc/os-release") -> None:
    """Into what is mounted on /."""
    handle.mkdir_p("/etc")
    handle.write(release, RELEASE)
    handle.write("/etc/fstab", fstab.encode())
    for name in ("boot", "usr", "var"):
        handle.mkdir_p(f"/{name}")
    handle.umount_all()


def found(handle: Any, *passphrases: str) -> tuple[Any, dict[str, str], list[str]]:
    """(guest, mount point -> device, messages)."""
    said: list[str] = []
    guest = mount_guest(handle, passphrases, said.append)
    mounted = {point: device for device, point in handle.mountpoints().items()}
    return guest, mounted, said


def test_a_btrfs_subvolume_beside_its_snapshot(empty: Any) -> None:
    empty.mkfs("btrfs", "/dev/sda2")
    empty.mount("/dev/sda2", "/")
    for name in ("@", "@var", "old"):
        empty.btrfs_subvolume_create(f"/{name}")
    empty.umount_all()
    uuid = empty.vfs_uuid("/dev/sda2")
    fstab = f"UUID={uuid} / btrfs subvol=@ 0 0\nUUID={uuid} /var btrfs subvol=/@var 0 0\n"
    for name in ("old", "@"):
        empty.mount(f"btrfsvol:/dev/sda2/{name}", "/")
        write_root(empty, fstab)
    empty.mount("btrfsvol:/dev/sda2/@var", "/")
    empty.write("/mark", b"")
    empty.umount_all()
    guest, _, said = found(empty)
    assert said == []
    assert guest.is_file("/var/mark")
    guest.write("/etc/written", b"x")
    empty.umount_all()
    empty.mount("/dev/sda2", "/")
    assert empty.is_file("/@/etc/written")
    assert guest.uuid_of("/dev/vda2") == uuid


def test_a_root_without_os_release_on_the_second_disk(empty: Any) -> None:
    for device in ("/dev/sdb2", "/dev/sda1"):
        empty.mkfs("ext4", device)
    empty.set_label("/dev/sda1", "boot")
    empty.mount("/dev/sdb2", "/")
    write_root(empty, "/dev/sdb2 / ext4 defaults 0 0\nLABEL=boot /boot ext4 defaults 0 0\n", "/etc/redhat-release")
    guest, mounted, _ = found(empty)
    assert mounted == {"/": "/dev/sdb2", "/boot": "/dev/sda1"}
    assert guest.has_device("LABEL=boot")
    assert not guest.has_device("LABEL=other")
    partuuid = empty.blkid("/dev/sdb2")["PART_ENTRY_UUID"]
    assert guest.has_device(f"PARTUUID={partuuid}")


def test_a_mirror(empty: Any) -> None:
    empty.md_create("guest-root", ["/dev/sda2", "/dev/sdb2"], level="raid1")
    (array,) = empty.list_md_devices()
    empty.mkfs("ext4", array)
    uuid = empty.md_detail(array)["uuid"]
    empty.mount(array, "/")
    empty.mkdir_p("/etc/mdadm")
    empty.write("/etc/mdadm/mdadm.conf", f"ARRAY /dev/md0 metadata=1.2 UUID={uuid}\n".encode())
    write_root(empty, "/dev/md0 / ext4 defaults 0 1\n")
    guest, mounted, _ = found(empty)
    assert mounted == {"/": array}
    assert guest.has_device("/dev/md0")


def test_volumes_in_an_encrypted_partition(empty: Any) -> None:
    empty.luks_format("/dev/sda2", "right", 0)
    empty.cryptsetup_open("/dev/sda2", "right", "making")
    empty.pvcreate("/dev/mapper/making")
    empty.vgcreate("vg-0", ["/dev/mapper/making"])
    empty.lvcreate("root", "vg-0", 200)
    empty.mkfs("ext4", "/dev/vg-0/root")
    empty.mount("/dev/vg-0/root", "/")
    empty.mkdir_p("/etc")
    empty.write("/etc/crypttab", b"sda2_crypt /dev/sda2 none luks\n")
    write_root(empty, "/dev/mapper/vg--0-root / ext4 defaults 0 1\n")
    empty.vg_activate_all(False)
    empty.cryptsetup_close("/dev/mapper/making")
    with pytest.raises(Unsupported, match="/dev/sda2 is encrypted"):
        found(empty, "wrong")
    guest, mounted, said = found(empty, "wrong", "right")
    assert mounted == {"/": "/dev/vg-0/root"}
    assert said == ["/dev/sda2 is encrypted and was opened"]
    assert guest.has_device("/dev/mapper/sda2_crypt")
    assert guest.has_device("/dev/mapper/vg--0-root")
    assert guest.uuid_of("/dev/vda2") == empty.luks_uuid("/dev/sda2")


def test_two_roots_are_named(empty: Any) -> None:
    for device in ("/dev/sda2", "/dev/sdb2"):
        empty.mkfs("ext4", device)
        empty.mount(device, "/")
        write_root(empty, "")
    with pytest.raises(Unsupported, match=r"2 Linux systems \(/dev/sda2, /dev/sdb2\)"):
        found(empty)


def test_a_guests_programs_are_bounded(empty: Any, tmp_path: Path) -> None:
    """A busybox stands for the guest's programs: statically linked, it needs nothing else there."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("needs busybox-static")
    empty.mkfs("ext4", "/dev/sda2")
    empty.mount("/dev/sda2", "/")
    for name in ("bin", "dev", "proc", "sys"):
        empty.mkdir(f"/{name}")
    empty.upload(str(busybox), "/bin/busybox")
    empty.chmod(0o755, "/bin/busybox")
    for name in ("sh", "tail", "yes", "head", "timeout", "sleep", "false"):
        empty.ln_s("busybox", f"/bin/{name}")
    write_root(empty, "")
    guest, _, _ = found(empty)
    assert len(guest.run(["sh", "-c", "yes | head -c 9000000"], timeout_s=60)) <= 64 << 10
    with pytest.raises(Unavailable, match="false failed with status 1"):
        guest.run(["false"], timeout_s=60)
    with pytest.raises(TimedOut, match="did not end within 2 s"):
        guest.run(["sleep", "600"], timeout_s=2)
    assert guest.run(["sh", "-c", "echo still there"], timeout_s=60) == "still there"
