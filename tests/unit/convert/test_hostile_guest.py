"""Guests that want to hurt: what they hold ends in a result or a reason, soon, and reaches nobody's terminal."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coriolis.convert import appliance
from coriolis.convert.guest_shell import guest_command, outcome
from coriolis.convert.linux import bootfiles, cpio, image, initramfs, inject, kmod_index, lvm, modules, plugin, stale
from coriolis.convert.linux.devices import Devices
from coriolis.convert.platforms import target_platform
from coriolis.convert.plugin import Job, Nic
from coriolis.convert.plugins import convert_guest
from coriolis.convert.text import MAX_SHOWN_CHARS
from coriolis.convert.windows import registry
from coriolis.errors import CoriolisError, Corrupt, Unsupported
from tests.unit.convert.directory_guest import VERSION, DirectoryGuest, debian

MIB = 1 << 20
JOB = Job(target_platform("kvm"), (Nic("00:50:56:9a:11:22"),))
SOON_S = 20.0
"""Far more than it takes here; what took time by the square of a file's size took hours."""


def soon(call: Callable[[], object]) -> None:
    started = time.monotonic()
    call()
    assert time.monotonic() - started < SOON_S


def member(name: bytes = b"a", size: bytes = b"00000000") -> bytes:
    """One cpio header with a size of one's choice, and its name."""
    numbers = [b"00000000"] * 13
    numbers[6], numbers[11] = size, b"%08X" % (len(name) + 1)
    raw = b"070701" + b"".join(numbers) + name + b"\0"
    return raw + bytes(-len(raw) % 4)


@pytest.mark.parametrize("size", [b"-0000080", b"+0000010", b" 0000010", b"0_000_10", b"0000001x"])
def test_a_size_that_leads_backwards_is_no_size(size: bytes) -> None:
    """int() takes it: the trailer below was read again and again, for ever."""
    archive = member(cpio.TRAILER.encode(), size) + bytes(200)
    with pytest.raises(Corrupt, match="bad number"):
        image.files_of(archive)
    with pytest.raises(Corrupt, match="bad number"):
        initramfs.segments(lambda at, length: archive[at : at + length], len(archive))


@pytest.mark.parametrize("name", [b"../../etc/passwd", b"/etc/passwd", b"a\n\x1b[2J", b"\xff\xfe"])
def test_names_in_an_archive_are_only_names(name: bytes) -> None:
    """Nothing is unpacked into the host's tree, whatever it is called."""
    files = image.files_of(member(name) + member(cpio.TRAILER.encode()))
    assert len(files) == 1
    assert stale.replacements(files, lambda _: "x") == []


def test_an_archive_longer_than_its_file() -> None:
    with pytest.raises(Corrupt, match="cut off"):
        image.files_of(member(size=b"7FFFFFFF") + bytes(300))


def test_a_million_dependencies() -> None:
    text = "kernel/a.ko: " + "a " * (MIB - 100) + "\n"
    soon(lambda: modules.closure(modules.parse_dep(text), frozenset(), ["a"]))


def test_a_hundred_thousand_boot_entries() -> None:
    text = "label x\n" + "linux /vmlinuz-1 root=/dev/sda1\noptions a\n" * 45_000
    entries: list[bootfiles.BootEntry] = []
    soon(lambda: entries.extend(bootfiles.boot_entries(text)))
    assert len(entries) == 45_000
    assert entries[-1].arguments == "root=/dev/sda1 a"


def test_a_label_for_each_boot_entry_keeps_its_arguments() -> None:
    text = "label a\nappend root=/dev/a\nkernel /vmlinuz-1\nlabel b\nkernel /vmlinuz-2\nappend root=/dev/b\n"
    assert [(one.version, one.root) for one in bootfiles.boot_entries(text)] == [("1", "/dev/a"), ("2", "/dev/b")]


def test_a_word_of_two_mebibytes_in_os_release() -> None:
    text = f"ID={'x' * 2 * MIB}\nVERSION_ID=12\n"
    soon(lambda: plugin.parse_os_release(text))
    assert plugin.parse_os_release(text) == {"VERSION_ID": "12"}


def test_nothing_but_beginnings_of_filters() -> None:
    soon(lambda: lvm.without_old_filters("filter = [\n" * 190_000))


def test_a_name_of_dashes() -> None:
    soon(lambda: Devices({}, 1).find("/dev/mapper/a" + "-" * (256 << 10)))


def test_an_image_of_nothing_but_zeroes_takes_few_questions() -> None:
    questions: list[int] = []

    def read_at(offset: int, length: int) -> bytes:
        questions.append(offset)
        return bytes(length)

    with pytest.raises(Corrupt, match="nothing but zeroes"):
        initramfs.segments(read_at, initramfs.MAX_INITRAMFS_BYTES)
    assert len(questions) < 2000


def test_lz4_chunks_without_number() -> None:
    frame = b"\x02\x21\x4c\x18" + b"\1\0\0\0x" * 100_000
    with pytest.raises(Unsupported, match="more than 1000 lz4 chunks"):
        initramfs.refuse_padded_lz4(lambda at, length: frame[at : at + length], 0, len(frame))


def test_an_index_whose_nodes_lead_to_themselves() -> None:
    children = b"\0\x7f" + b"\x20\0\0\x0c" * 128
    index = b"\xb0\x07\xf4\x57\0\2\0\1" + b"\x20\0\0\x0c" + children
    with pytest.raises(Corrupt, match="more than 200000 nodes"):
        kmod_index.entries(index)


def test_a_name_of_a_unit_is_escaped() -> None:
    unit = "etc/systemd/system/initrd.target.wants/dev-disk-by\\x2dpath-\x1b[2J.device"
    timeout = "etc/systemd/system/dev-disk-by\\x2dpath-\x1b[2J.device.d/timeout.conf"
    archive = member(unit.encode()) + member(timeout.encode()) + member(cpio.TRAILER.encode())
    found = stale.replacements(image.files_of(archive), lambda _: None)
    assert [one.why.isprintable() for one in found] == [True]


@pytest.mark.parametrize("text", ["[" * 200_000, '{"/boot/x": {"old_size": Infinity, "added": 1}}', "[1]", '{"x": []}'])
def test_a_record_that_no_conversion_wrote(tmp_path: Path, text: str) -> None:
    guest = debian(tmp_path)
    guest.write(inject.RECORD, text.encode())
    with pytest.raises(Corrupt, match="cannot be read back"):
        inject.recorded(guest)
    said: list[str] = []
    inject.undo(guest, said.append)
    assert not guest.is_file(inject.RECORD)
    assert "cannot be read" in said[0]


TRAPS = {
    "/etc/fstab": "/../../../../../../etc/passwd",
    "/etc/crypttab": "/dev/zero",
    "/etc/default/grub": "grub",
    "/etc/network/interfaces": "/proc/kmsg",
    f"/lib/modules/{VERSION}/modules.dep": "/dev/full",
    "/boot/grub/grub.cfg": "loop",
    "/boot/grub/loop": "grub.cfg",
}


@pytest.mark.parametrize("path", TRAPS)
def test_a_link_in_place_of_a_file_is_never_opened_as_a_device(tmp_path: Path, path: str) -> None:
    """Loops and devices are no files. What a link means inside of a guest is the appliance's matter, not shown here."""
    guest = debian(tmp_path)
    for one in (path, "/boot/grub/loop") if "grub.cfg" in path else (path,):
        guest.symlink(TRAPS[one], one)
    ends_well_or_with_a_reason(guest)


@pytest.mark.parametrize(
    "path",
    ["/etc/fstab", "/etc/os-release", "/etc/network/interfaces", "/boot/grub/grub.cfg", "/boot/grub/grubenv"],
)
@pytest.mark.parametrize("kind", ["pipe", "sparse", "garbage", "directory"])
def test_anything_in_place_of_a_file(tmp_path: Path, path: str, kind: str) -> None:
    guest = debian(tmp_path)
    guest.remove(path)
    place = guest.path(path)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "sparse":
        place.touch()
        os.truncate(place, 10 << 30)
    elif kind == "garbage":
        place.write_bytes(b"\xff\xfe\x1b[2J\0= 'unended\r" * 10_000)
    else:
        place.mkdir()
    reason = ends_well_or_with_a_reason(guest)
    if kind == "sparse":
        assert "10737418240 bytes" in reason


def test_aliases_of_yaml_are_not_expanded(tmp_path: Path) -> None:
    guest = debian(tmp_path)
    bomb = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    guest.write("/etc/netplan/x.yaml", f"network:\n  a0: &a0 [lol]\n{bomb}  ethernets:\n    ens192: *a29\n".encode())
    soon(lambda: ends_well_or_with_a_reason(guest))


def ends_well_or_with_a_reason(guest: DirectoryGuest) -> str:
    """The reason, empty after a result; bounded and escaped in any case."""
    said: list[str] = []
    reason = ""
    started = time.monotonic()
    try:
        convert_guest(guest, JOB, said.append)
    except CoriolisError as error:
        reason = error.message
    assert time.monotonic() - started < SOON_S
    assert all(line.isprintable() and len(line) < 10 * MAX_SHOWN_CHARS for line in [*said, reason])
    return reason


def test_output_of_any_bytes() -> None:
    """libguestfs gives a program's output as text: it ends at a zero, and Python refuses what is no UTF-8."""
    script = "printf 'a\\000b\\377\\303'; printf '\\303\\244%.0s' $(seq 40000); echo; echo end"
    done = subprocess.run(guest_command(["sh", "-c", script], 30), capture_output=True, check=True)
    assert done.stdout.isascii()
    assert b"\0" not in done.stdout
    status, text = outcome(done.stdout.decode())
    assert status == 0
    assert text.endswith("end")


def test_a_hive_is_looked_at_where_the_workers_parent_cleans_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIBGUESTFS_TMPDIR", str(tmp_path))
    with registry._private_directory() as name:
        assert Path(name).parent == tmp_path
        assert Path(name).stat().st_mode & 0o777 == 0o700


def test_sockets_of_dead_appliances_are_removed_and_nothing_else(tmp_path: Path) -> None:
    old = time.time() - 2 * appliance.SOCKET_GRACE_S
    places = {name: tmp_path / f"libguestfs{name}" for name in ("dead00", "live00", "young0", "other0", "files0")}
    for place in places.values():
        place.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(places["live00"] / "guestfsd.sock"))
    for name in ("dead00", "young0", "files0"):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(places[name] / "guestfsd.sock"))
    (places["files0"] / "file").touch()
    for name in ("dead00", "live00", "other0", "files0"):
        os.utime(places[name], (old, old))
    appliance.remove_dead_sockets(tmp_path)
    listener.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"libguestfs{n}" for n in places if n != "dead00")
    assert (places["files0"] / "file").exists()
