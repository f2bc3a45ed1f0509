"""Guests whose initramfs dracut made: what is added to it, and what it knew of its old disks."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path

import pytest

from coriolis.convert.linux import image, inject, kmod_index, rebuild
from coriolis.convert.linux.verify import verify_boot
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Facts, Job
from coriolis.convert.plugins import convert_guest, plan_guest
from coriolis.errors import Corrupt, QuotaExceeded, Unavailable, Unsupported
from tests.unit.convert.directory_guest import ROOT_UUID, DirectoryGuest
from tests.unit.convert.dracut_guest import (
    IMAGE,
    MODULES,
    STABLE_HOOK,
    TIMEOUT,
    TREE,
    VERSION,
    WAIT_HOOK,
    by_tool,
    dracut_guest,
    early,
    is_directory,
    old_image,
)

KVM = target_platform("kvm")


def run(guest: DirectoryGuest, job: Job | None = None) -> tuple[Facts, list[str]]:
    said: list[str] = []
    _, facts = convert_guest(guest, job or Job(KVM), said.append)
    return facts, said


def content(guest: DirectoryGuest) -> dict[str, bytes]:
    files = image.files_of(guest.path(IMAGE).read_bytes())
    return {name: bytes(member.data) for name, member in files.items() if member.is_file}


@pytest.mark.parametrize("ending", ["", ".xz", ".gz", ".zst"])
def test_lacking_modules_are_added_unpacked_and_indexed(tmp_path: Path, ending: str) -> None:
    guest = dracut_guest(tmp_path, module_ending=ending)
    before = guest.path(IMAGE).read_bytes()
    facts, _ = run(guest)
    assert facts.way == "fast"
    assert facts.modules == ["virtio", "virtio_blk", "virtio_pci", "virtio_ring"]
    assert guest.path(IMAGE).read_bytes().startswith(before)
    files = content(guest)
    for path, data in MODULES.items():
        assert files[f"{TREE}/{path}"] == data, "a signature would not survive a change"
    dep = kmod_index.entries(files[f"{TREE}/modules.dep.bin"])
    assert dep["virtio_blk"] == "kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko"
    alias = kmod_index.entries(files[f"{TREE}/modules.alias.bin"])
    assert alias["virtio:d00000002v*"] == "virtio_blk"
    added = image.files_of(guest.path(IMAGE).read_bytes()[len(before) :])
    assert f"{TREE}/kernel/drivers/virtio/virtio.ko" not in added, "the image has it"
    assert not {name for name, one in added.items() if is_directory(one)} & {"lib", "usr", "usr/lib"}


def test_what_the_image_knew_of_old_disks_is_replaced(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    before = guest.path(IMAGE).read_bytes()
    run(guest)
    files = content(guest)
    assert files["etc/cmdline.d/95root-dev.conf"] == f" root=UUID={ROOT_UUID} rootfstype=xfs rootflags=rw\n".encode()
    assert files["etc/fstab"] == f"UUID={ROOT_UUID} /sysroot xfs defaults 0 0\n".encode()
    assert files[WAIT_HOOK] == b""
    assert files[TIMEOUT] == b"[Unit]\nJobTimeoutSec=1\nJobRunningTimeoutSec=1\n"
    added = image.files_of(guest.path(IMAGE).read_bytes()[len(before) :])
    assert added["etc/lvm/devices/system.devices"].is_link
    assert STABLE_HOOK not in added


def test_the_files_of_a_converted_rhel(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    _, said = run(guest)
    block = guest.path("/boot/grub2/grubenv").read_bytes()
    assert len(block) == 1024
    assert f"kernelopts=root=UUID={ROOT_UUID} ro crashkernel=auto".encode() in block
    assert block.endswith(b"\n" + b"#" * 900) or block.rstrip(b"#").endswith(b"\n")
    drivers = guest.path("/etc/dracut.conf.d/coriolis.conf").read_text()
    assert 'add_drivers+=" virtio_pci virtio_blk "\n' in drivers
    assert any("kdump.img is an image for rescue or crash dumps" in line for line in said)
    assert any("0-rescue" in line and "rescue or crash" in line for line in said)
    assert any("boot entries of kernel 0-rescue-0123 are as they were" in line for line in said)


def test_a_second_conversion_changes_nothing(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    run(guest)
    first = {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()}
    run(guest)
    assert {path: path.read_bytes() for path in guest.top.rglob("*") if path.is_file()} == first


@pytest.mark.parametrize("tool", ["zstd", "xz", "bzip2", "lz4", "lzop", "lzma", "none"])
def test_images_of_every_compression(tmp_path: Path, tool: str) -> None:
    if tool == "lzma":
        packed = lzma.compress(old_image(), lzma.FORMAT_ALONE)
    else:
        packed = by_tool(tool, old_image()) if tool != "none" else old_image()
    if tool == "xz":
        packed = lzma.compress(old_image(), check=lzma.CHECK_CRC32)
    guest = dracut_guest(tmp_path, image=early() + packed)
    run(guest)
    assert content(guest)[f"{TREE}/kernel/drivers/block/virtio_blk.ko"] == MODULES["kernel/drivers/block/virtio_blk.ko"]


def test_an_image_without_udev_needs_the_full_way(tmp_path: Path) -> None:
    packed = gzip.compress(old_image().replace(b"systemd-udevd", b"systemd-hello"))
    guest = dracut_guest(tmp_path, image=packed)
    before = guest.path(IMAGE).read_bytes()
    with pytest.raises(Unsupported, match="no udev"):
        run(guest, Job(KVM, way="fast"))
    assert guest.path(IMAGE).read_bytes() == before


@pytest.mark.parametrize("damage", ["module", "index", "old part"])
def test_verification_reads_the_whole_image(tmp_path: Path, damage: str) -> None:
    guest = dracut_guest(tmp_path, image=early() + old_image())
    run(guest)
    one = inject.recorded(guest)[0]
    raw = bytearray(guest.path(IMAGE).read_bytes())
    archive = gzip.decompress(raw[one.old_size :].lstrip(b"\0"))
    if damage == "module":
        archive = archive.replace(b"alias=virtio:d00000002", b"alias=virtio:d00000003")
    elif damage == "index":
        archive = archive.replace(b"block/virtio_blk.ko:", b"block/virtio_blg.ko:")
    else:
        at = raw.index(b"license=GPL", len(early()))
        raw[at : at + 3] = b"LIC"
    again = raw[: one.old_size] + bytes(-one.old_size % 4) + gzip.compress(archive, 6, mtime=0)
    guest.write(IMAGE, bytes(again))
    record = (
        guest.path(inject.RECORD).read_text().replace(f'"added": {one.added}', f'"added": {len(again) - one.old_size}')
    )
    guest.write(inject.RECORD, record.encode())
    with pytest.raises(Corrupt, match="lacks the module"):
        verify_boot(guest, Job(KVM), Facts(kernel_versions=[VERSION], way="fast"), print)


def test_a_root_that_no_disk_has_is_noticed(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    block = guest.path("/boot/grub2/grubenv")
    block.write_bytes(block.read_bytes().replace(b"root=/dev/sda2 ", b"root=UUID=1-1 "))
    with pytest.raises(Unsupported, match="root=UUID=1-1, which no disk of the guest has"):
        run(guest)


class PhonyRebuild(DirectoryGuest):
    """Stands for a guest's own dracut: writes an image of ``modules`` where it is told to."""

    modules = tuple(MODULES)
    failure = ""

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        super().run(command, timeout_s=timeout_s)
        if self.failure:
            raise Unavailable(self.failure)
        if command[0] == "dracut":
            settings = self.path(rebuild._FOR_THIS_RUN).read_text()
            assert 'hostonly="no"' in settings
            assert "virtio_blk" in settings
            self.write(str(command[2]), rebuilt(self.modules))
        return ""


def rebuilt(present: tuple[str, ...]) -> bytes:
    from coriolis.convert.linux import cpio, depmod

    writer = cpio.Writer()
    index = depmod.index_of(VERSION, {path: MODULES[path] for path in present}, {})
    for path, data in {**{path: MODULES[path] for path in present}, **index}.items():
        writer.add_file(f"{TREE}/{path}", data)
    return gzip.compress(writer.finish())


def sealed_in_a_strange_format(top: Path) -> PhonyRebuild:
    guest = dracut_guest(top, image=b"MZ strange" * 100)
    return PhonyRebuild(guest.top, guest.uuids)


def test_the_full_way_is_taken_when_the_fast_one_cannot_hold(tmp_path: Path) -> None:
    guest = sealed_in_a_strange_format(tmp_path)
    facts, said = run(guest)
    assert facts.way == "full"
    assert facts.kernel_versions == [VERSION]
    assert guest.commands[0] == ("dracut", "--force", IMAGE, VERSION)
    assert not guest.path(rebuild._FOR_THIS_RUN).exists()
    assert any("the fast way cannot hold" in line and "unknown initramfs format" in line for line in said)


def test_the_full_way_when_asked_for_even_without_an_image(tmp_path: Path) -> None:
    plain = dracut_guest(tmp_path)
    guest = PhonyRebuild(plain.top, plain.uuids)
    guest.path(IMAGE).unlink()
    guest.write("/etc/selinux/config", b"SELINUX=enforcing\n")
    facts, _ = run(guest, Job(KVM, way="full"))
    assert facts.way == "full"
    assert guest.is_file("/.autorelabel")


def test_the_full_way_after_a_fast_one_leaves_no_record(tmp_path: Path) -> None:
    plain = dracut_guest(tmp_path)
    run(plain)
    guest = PhonyRebuild(plain.top, plain.uuids)
    run(guest, Job(KVM, way="full"))
    assert not guest.is_file(inject.RECORD)


def test_a_rebuilt_image_without_the_drivers_is_refused(tmp_path: Path) -> None:
    guest = sealed_in_a_strange_format(tmp_path)
    guest.modules = tuple(path for path in MODULES if "virtio_blk" not in path)
    with pytest.raises(Unsupported, match="made by the guest's own tools, lacks the module virtio_blk"):
        run(guest)


def test_a_failure_of_the_guests_tools_is_told(tmp_path: Path) -> None:
    guest = sealed_in_a_strange_format(tmp_path)
    guest.failure = "the guest's dracut failed with status 1: no space"
    with pytest.raises(Unavailable, match="no space"):
        run(guest)
    assert not guest.path(rebuild._FOR_THIS_RUN).exists()


def test_only_the_fast_way_says_why_not(tmp_path: Path) -> None:
    guest = sealed_in_a_strange_format(tmp_path)
    with pytest.raises(Unsupported, match="unknown initramfs format"):
        run(guest, Job(KVM, way="fast"))
    assert guest.commands == []


def test_images_stay_whole_when_a_later_one_cannot_take_it(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    guest.free = 3 << 19
    before = guest.path(IMAGE).read_bytes()
    other = IMAGE.replace("-362", "-999")
    guest.write(other, b"MZ strange" * 100)
    for path in guest.path(f"/{TREE}").rglob("*"):
        if path.is_file():
            guest.write(
                f"/{TREE}/{path.relative_to(guest.path('/' + TREE))}".replace("-362", "-999"), path.read_bytes()
            )
    with pytest.raises((Unsupported, QuotaExceeded)):
        run(guest, Job(KVM, way="fast"))
    assert guest.path(IMAGE).read_bytes() == before


@pytest.mark.parametrize(
    ("path", "data", "code"),
    [
        ("/ostree/repo/config", b"", "GUEST_IMAGE_BASED"),
        ("/boot/loader/entries/a.conf", b"linux /vmlinuz-1\noptions root=/dev/dm-0 roothash=abc\n", "GUEST_VERITY"),
        ("/boot/grub2/grub.cfg", b"set check_signatures=enforce\n", "GUEST_SIGNED_INITRAMFS"),
    ],
)
def test_sealed_guests_are_errors_with_what_to_do(tmp_path: Path, path: str, data: bytes, code: str) -> None:
    guest = dracut_guest(tmp_path)
    guest.write(path, data)
    found = [one for one in plan_guest(guest, Job(KVM)).findings if one.code == code]
    assert [one.severity for one in found] == ["error"]
    assert found[0].action
    with pytest.raises(Unsupported):
        run(guest)


def test_unified_kernels_alone_are_an_error_and_beside_others_a_warning(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    guest.write("/boot/efi/EFI/Linux/linux.efi", b"MZ")
    assert [one.severity for one in plan_guest(guest, Job(KVM)).findings if "UNIFIED" in one.code] == ["warning"]
    guest.path(IMAGE).unlink()
    assert [one.severity for one in plan_guest(guest, Job(KVM)).findings if "UNIFIED" in one.code] == ["error"]


def test_a_plan_names_a_kernel_without_drivers(tmp_path: Path) -> None:
    guest = dracut_guest(tmp_path)
    guest.write(f"/{TREE}/modules.dep", b"kernel/a.ko:\n")
    found = [one for one in plan_guest(guest, Job(KVM)).findings if one.code == "GUEST_KERNEL_LACKS_DRIVER"]
    assert VERSION in found[0].message
