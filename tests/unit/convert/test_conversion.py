"""The whole Linux conversion, and its verification, over a directory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from coriolis.convert.linux import cpio, initramfs
from coriolis.convert.linux.inject import Injection, recorded, undo
from coriolis.convert.linux.verify import verify_boot
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Facts, Job, Nic
from coriolis.convert.plugins import convert_guest, plan_guest, preview
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded, Unsupported
from tests.unit.convert.directory_guest import MODULES, ROOT_UUID, VERSION, DirectoryGuest, debian

KVM = target_platform("kvm")
MAC = "00:50:56:9a:11:22"
INITRD = f"/boot/initrd.img-{VERSION}"


@pytest.fixture
def guest(tmp_path: Path) -> DirectoryGuest:
    return debian(tmp_path)


def run(guest: DirectoryGuest, *, efi: bool = False) -> tuple[Facts, list[str]]:
    said: list[str] = []
    system, facts = convert_guest(guest, Job(KVM, (Nic(MAC),), efi), said.append)
    assert system.title == "Debian GNU/Linux 12 (bookworm)"
    return facts, said


def text(guest: DirectoryGuest, path: str) -> str:
    return guest.path(path).read_text()


def test_a_debian_is_converted(guest: DirectoryGuest) -> None:
    before = guest.path(INITRD).read_bytes()
    done, _ = run(guest)
    assert done.kernel_versions == [VERSION]
    assert done.modules == ["virtio", "virtio_blk", "virtio_pci", "virtio_ring", "virtio_rng"]
    assert done.pins == [(MAC, "ens192")]
    after = guest.path(INITRD).read_bytes()
    assert after.startswith(before), "the old initramfs must stay as it was"
    archive = initramfs.archive_in(after[len(before) :])
    present = {member.name: bytes(member.data) for member in cpio.members(archive)}
    for path in MODULES:
        assert present[f"lib/modules/{VERSION}/{path}"] == f"code of {path}".encode()
    assert present[f"lib/modules/{VERSION}/modules.alias.bin"] == b"modules.alias.bin"


def test_a_plan_changes_nothing(guest: DirectoryGuest) -> None:
    before = {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()}
    plan = plan_guest(guest, Job(KVM, (Nic(MAC),)))
    assert {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()} == before
    assert [step.name for step in plan.steps][:2] == ["drivers", "boot-files"]


def test_an_unknown_distribution_is_a_finding(guest: DirectoryGuest) -> None:
    guest.write("/etc/os-release", b"ID=own\nVERSION_ID=1\n")
    plan = plan_guest(guest, Job(KVM, (Nic(MAC),)))
    assert plan.system.family == "generic"
    assert [finding.code for finding in plan.findings] == ["GUEST_UNKNOWN"]


def test_a_preview_says_why_a_guest_cannot_be_converted(guest: DirectoryGuest) -> None:
    def locked() -> DirectoryGuest:
        raise Unsupported("the disk is encrypted by BitLocker")

    assert preview(lambda: guest, Job(KVM)).steps[0].name == "drivers"
    (finding,) = preview(locked, Job(KVM)).findings
    assert (finding.severity, finding.message) == ("error", "the disk is encrypted by BitLocker")
    assert "skip_os_morphing" in finding.action


def test_an_old_release_is_a_finding(guest: DirectoryGuest) -> None:
    guest.write("/etc/os-release", b"ID=debian\nVERSION_ID=7\n")
    assert plan_guest(guest, Job(KVM)).findings[0].code == "GUEST_TOO_OLD"


def test_the_files_of_a_converted_debian(guest: DirectoryGuest) -> None:
    run(guest)
    assert f"UUID={ROOT_UUID} / ext4" in text(guest, "/etc/fstab")
    assert f"root=UUID={ROOT_UUID} ro" in text(guest, "/boot/grub/grub.cfg")
    assert text(guest, "/etc/default/grub") == "#GRUB_DISABLE_LINUX_UUID=true\n"
    modules = text(guest, "/etc/initramfs-tools/modules").splitlines()
    assert modules[:2] == ["# comment", "vmw_pvscsi"]
    assert {"virtio_blk", "virtio_net"} <= set(modules)
    assert f"MACAddress={MAC}" in text(guest, "/etc/systemd/network/10-coriolis-ens192.link")


def test_a_second_conversion_changes_nothing(guest: DirectoryGuest) -> None:
    run(guest)
    first = {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()}
    done, said = run(guest)
    assert {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()} == first
    assert done.pins == []
    assert any("former conversion was removed" in line for line in said)


def test_older_tools_find_the_checksum_of_the_converted_image(guest: DirectoryGuest) -> None:
    """They refuse to update an image that is not the one they wrote."""
    state = f"/var/lib/initramfs-tools/{VERSION}"
    guest.write(state, b"0123  x\n")
    guest.write("/usr/sbin/update-initramfs", b'echo "${initramfs} has been altered."\n')
    run(guest)
    digest = hashlib.sha1(guest.path(INITRD).read_bytes(), usedforsecurity=False).hexdigest()
    assert text(guest, state) == f"{digest}  {INITRD}\n"
    undo(guest, print)
    digest = hashlib.sha1(guest.path(INITRD).read_bytes(), usedforsecurity=False).hexdigest()
    assert text(guest, state) == f"{digest}  {INITRD}\n"


def test_a_hostile_record_truncates_nothing_else(guest: DirectoryGuest) -> None:
    guest.write("/etc/shadow", b"x" * 300)
    guest.write(
        "/var/lib/coriolis/conversion.json",
        b'{"/etc/shadow": {"old_size": 200, "added": 100}, "/boot/../etc/shadow": {"old_size": 200, "added": 100}}',
    )
    run(guest)
    assert guest.size("/etc/shadow") == 300


@pytest.mark.parametrize("record", [b"[]", b"{}", b"\xff", b'{"a": 1}', b'{"a": {"old_size": null, "added": 1}}'])
def test_an_unreadable_record_is_no_obstacle(guest: DirectoryGuest, record: bytes) -> None:
    guest.write("/var/lib/coriolis/conversion.json", record)
    assert run(guest)[0].kernel_versions == [VERSION]


def test_efi_gets_its_fallback_loader(guest: DirectoryGuest) -> None:
    guest.write("/boot/efi/EFI/debian/grubx64.efi", b"loader")
    run(guest, efi=True)
    assert guest.path("/boot/efi/EFI/BOOT/BOOTX64.EFI").read_bytes() == b"loader"


def test_efi_without_a_loader_is_refused(guest: DirectoryGuest) -> None:
    with pytest.raises(Unsupported, match="no EFI system partition"):
        run(guest, efi=True)
    guest.write("/boot/efi/EFI/strange/loader.efi", b"")
    with pytest.raises(Unsupported, match="BOOTX64"):
        run(guest, efi=True)


def test_a_kernel_without_the_drivers_is_refused(guest: DirectoryGuest) -> None:
    guest.write(f"/lib/modules/{VERSION}/modules.dep", b"")
    with pytest.raises(Unsupported, match="no driver virtio_pci, virtio_blk"):
        run(guest)


def test_a_full_boot_is_refused_before_it_is_written(guest: DirectoryGuest) -> None:
    guest.free = 1 << 20
    before = guest.path(INITRD).read_bytes()
    with pytest.raises(QuotaExceeded, match="/boot has 1048576 bytes free"):
        run(guest)
    assert guest.path(INITRD).read_bytes() == before


def test_no_initramfs_is_refused(guest: DirectoryGuest) -> None:
    guest.path(INITRD).unlink()
    with pytest.raises(Unsupported, match="no initramfs"):
        run(guest)


def test_a_root_without_uuid_is_refused(guest: DirectoryGuest) -> None:
    guest.uuids = {"/dev/sdb1": "x"}
    with pytest.raises(Unsupported, match="names a disk by its old bus: root=/dev/sda1"):
        run(guest)


def test_a_boot_entry_of_another_kernel_is_refused(guest: DirectoryGuest) -> None:
    path = "/boot/grub/grub.cfg"
    guest.write(path, text(guest, path).replace(f"vmlinuz-{VERSION}", "vmlinuz-5.10.0-1-amd64").encode())
    with pytest.raises(Unsupported, match="no boot entry of the guest uses"):
        run(guest)


def test_an_unconverted_first_entry_is_reported(guest: DirectoryGuest) -> None:
    path = "/boot/grub/grub.cfg"
    guest.write(path, b"linux /boot/vmlinuz-9.9 root=LABEL=x\n" + guest.path(path).read_bytes())
    _, said = run(guest)
    assert any("first boot entry, kernel 9.9, was not converted" in line for line in said)


def injection(guest: DirectoryGuest) -> Injection:
    return recorded(guest)[0]


@pytest.mark.parametrize("damage", ["module", "size", "archive", "alignment", "index"])
def test_verification_notices_damage(guest: DirectoryGuest, damage: str) -> None:
    run(guest)
    one = injection(guest)
    done = Facts(kernel_versions=[VERSION], way="fast")
    verify_boot(guest, Job(KVM), done, print)
    added = guest.read_at(INITRD, one.old_size, one.added)
    if damage == "module":
        guest.write(f"/lib/modules/{VERSION}/kernel/drivers/block/virtio_blk.ko", b"another build")
    elif damage == "size":
        guest.truncate(INITRD, one.old_size + one.added - 1)
    elif damage == "archive":
        guest.write_at(INITRD, one.old_size + one.added // 2, b"\xff" * 16)
    elif damage == "alignment":
        guest.write_at(INITRD, one.old_size, added.lstrip(b"\0") + bytes(len(added) - len(added.lstrip(b"\0"))))
    else:
        archive = initramfs.archive_in(added).replace(b"modules.alias.bin", b"modules.other.bin")
        again = initramfs.appendix(one.old_size, "zstd", archive, use_gzip=True)
        guest.truncate(INITRD, one.old_size)
        guest.write_at(INITRD, one.old_size, again)
        record = {INITRD: {**asdict(one), "added": len(again)}}
        guest.write("/var/lib/coriolis/conversion.json", json.dumps(record).encode())
    with pytest.raises((Corrupt, Unsupported)):
        verify_boot(guest, Job(KVM), done, print)


def test_unknown_platforms_are_named() -> None:
    with pytest.raises(InvalidInput, match="'xen' is not one of: aws"):
        target_platform("xen")


def test_what_the_guest_says_of_itself_is_escaped_and_bounded(guest: DirectoryGuest) -> None:
    guest.write("/etc/os-release", b"ID=debian\nPRETTY_NAME='\x1b[2J" + b"x" * 5000 + b"'\n")
    title = plan_guest(guest, Job(KVM)).system.title
    assert title.startswith("\\x1b[2J")
    assert len(title) <= 160
