"""Guests full of traps in the real appliance: a result or a reason, within a time, and this machine as it was.

What needs no appliance is in tests/unit/convert/test_hostile_guest.py.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from coriolis.convert import appliance_limit
from coriolis.convert.guest import Guest, read
from coriolis.convert.linux.kept_aside import BEFORE
from coriolis.errors import Corrupt, TimedOut, Unavailable, Unsupported
from tests.fault.hostile_guest import (
    GUEST,
    KERNEL,
    MIB,
    convert_disk,
    hostile_disk,
    instead,
    nothing_else_changes,
    packed_zeroes,
    sparse,
    traps,
)
from tests.lab.phony_distros import DISTROS, MACS
from tests.lab.phony_files import put

guestfs_guest = pytest.importorskip("coriolis.convert.guestfs_guest")
mount_guest = pytest.importorskip("coriolis.convert.mount").mount_guest

pytestmark = [pytest.mark.fault, pytest.mark.lab, pytest.mark.timeout(900)]

SCRIPT_S = 3
TIME_BOUND_S = 180.0


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mke2fs", "sfdisk", "qemu-img", "busybox", "zstd", "xz"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    path.write_text("root=/dev/sda1 of this machine\n")
    return path


def test_a_tree_full_of_traps_is_converted(tmp_path: Path, canary: Path) -> None:
    disk = hostile_disk(tmp_path, traps(canary))
    started = time.monotonic()
    with nothing_else_changes(canary):
        result, said, peak = convert_disk(disk)
    assert time.monotonic() - started < TIME_BOUND_S
    assert peak < 512 * MIB
    assert result["system"]["title"] == r"\x1b]0;x\x07\x1b[2J"
    assert result["facts"]["kernel_versions"] == [KERNEL]
    assert dict(result["facts"]["pins"]) == dict(zip(MACS, DISTROS[GUEST].nics, strict=True))
    assert "/etc/network/interfaces: addresses by DHCP" in said


class _Over(Exception):
    """Leaves an appliance that a guest's program has ended."""


def test_a_guest_that_is_asked_directly(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second appliance for all that is left: long answers, links where conversion writes, programs without end."""
    monkeypatch.setattr(appliance_limit, "GRACE_S", 5.0)
    disk = hostile_disk(tmp_path, traps(canary))
    with nothing_else_changes(canary), pytest.raises(_Over):
        ask_it(disk)


def ask_it(disk: Path) -> None:
    with guestfs_guest.launched([str(disk)], "tcg", 1024) as handle:
        guest = mount_guest(handle, [], print)
        look_at_traps(guest)
        look_at_links(guest)
        run_without_end(guest)
        raise _Over


def look_at_traps(guest: Guest) -> None:
    names = guest.listdir("/etc/netplan")
    assert "line\nbreak\x1b[2J.yaml" in names
    assert len(names) == 10, "the one that is no UTF-8 is left out"
    for path in ("/outside", "/etc/netplan/loop.yaml", "/etc/netplan/long.yaml", "/etc/netplan/zero.yaml"):
        assert not guest.is_file(path)
    with pytest.raises(Unsupported, match="more than 10000 files"):
        guest.listdir("/many")
    with pytest.raises(Unsupported, match="10737418240 bytes"):
        read(guest, "/sparse")
    for path in ("/etc/netplan/pipe.yaml", "/etc/netplan/memory.yaml", "/etc/netplan/disk.yaml"):
        with pytest.raises(Unsupported, match="no regular file"):
            guest.write(path, b"x")


def look_at_links(guest: Guest) -> None:
    """To programs that libguestfs runs outside of the guest's root, a link would lead into the appliance's."""
    assert guest.is_file("/srv/boot/grub/grub.cfg"), "mounted where the guest's link leads"
    for path in ("/bait", "/bait-of-copy"):
        guest.symlink("/usr/sbin/guestfsd", path)
    guest.copy("/etc/network/interfaces", "/bait-of-copy")
    assert read(guest, "/bait-of-copy") == read(guest, "/srv/net/interfaces")
    guest.rename("/bait-of-copy", "/bait")
    assert guest.read_link("/bait") is None
    guest.copy("/etc/fstab", BEFORE + "/etc/network/interfaces")
    assert guest.is_file(BEFORE + "/etc/network/interfaces"), "a pipe there made it wait"


def run_without_end(guest: Guest) -> None:
    assert guest.run(["/bin/sh", "-c", "printf 'a\\000\\377z'"], timeout_s=60) == "a??z"
    with pytest.raises(TimedOut, match="within 3 s"):
        guest.run(["/bin/sh", "-c", "yes $(head -c 100 /dev/urandom)"], timeout_s=SCRIPT_S)
    started = time.monotonic()
    with pytest.raises((TimedOut, Unavailable)):
        guest.run(["/bin/sh", "-c", "b() { b | b & }; b; sleep 1000"], timeout_s=SCRIPT_S)
    assert time.monotonic() - started < 60


INITRAMFS = f"/boot/initrd.img-{KERNEL}"
BACKWARDS = b"070701" + b"0" * 48 + b"-0000080" + b"0" * 32 + b"0000000B" + b"0" * 8 + b"TRAILER!!!\0" + bytes(4096)


@pytest.mark.full
@pytest.mark.parametrize(
    ("path", "make", "reason"),
    [
        ("/etc/fstab", partial(sparse, size=10 << 30), "no initramfs with a module tree"),
        ("/boot/grub/grub.cfg", partial(sparse, size=10 << 30), "10737418240 bytes"),
        (INITRAMFS, partial(sparse, size=190 * MIB), "nothing but zeroes"),
        (INITRAMFS, partial(put, data=BACKWARDS), "bad number"),
        (f"/lib/modules/{KERNEL}/modules.dep", partial(put, data="kernel/../../../etc/shadow:\n"), "impossible file"),
    ],
)
def test_a_trap_that_ends_in_a_reason(tmp_path: Path, canary: Path, path: str, make: object, reason: str) -> None:
    disk = hostile_disk(tmp_path, instead(path, make))  # type: ignore[arg-type]
    started = time.monotonic()
    with nothing_else_changes(canary), pytest.raises((Unsupported, Corrupt), match=reason) as caught:
        convert_disk(disk, way="fast")
    assert caught.value.message.isprintable()
    assert time.monotonic() - started < TIME_BOUND_S


@pytest.mark.full
@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd"])
def test_a_packed_bomb_ends_in_a_reason(tmp_path: Path, canary: Path, tool: str) -> None:
    bomb = packed_zeroes(tool, 1200 * MIB)
    guest = "rocky9"
    disk = hostile_disk(tmp_path, instead(DISTROS[guest].initramfs, partial(put, data=bomb)), guest)
    started = time.monotonic()
    with nothing_else_changes(canary), pytest.raises((Unsupported, Corrupt)) as caught:
        convert_disk(disk, guest, way="fast")
    print(caught.value)
    assert caught.value.message.isprintable()
    assert time.monotonic() - started < TIME_BOUND_S
