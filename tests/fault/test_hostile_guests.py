"""Guests full of traps in the real appliance: a result or a reason, within a time, and this machine as it was.

What needs no appliance is in tests/unit/convert/test_hostile_guest.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from coriolis.errors import Corrupt, Unsupported
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

pytest.importorskip("guestfs")

pytestmark = [pytest.mark.fault, pytest.mark.lab, pytest.mark.timeout(900)]

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


def test_a_guest_that_is_asked_directly(tmp_path: Path, canary: Path) -> None:
    """The second appliance for all that is left: long answers, links where conversion writes, programs without end.

    In a process of its own, as conversion does it: libguestfs forks, and a launch in the suite's process, which had
    served gRPC, once failed.
    """
    disk = hostile_disk(tmp_path, traps(canary))
    command = [sys.executable, "-m", "tests.fault.ask_hostile_guest", str(disk)]
    with nothing_else_changes(canary):
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_BOUND_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "asked"


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
