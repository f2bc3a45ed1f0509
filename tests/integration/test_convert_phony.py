"""Phony Linux guests through the real worker and its appliance: one in every run, all families with ``make guests``."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from coriolis.convert.worker_process import run_worker
from coriolis.errors import InvalidInput, TimedOut, Unavailable
from tests.lab.phony_disk import make_lvm, make_plain
from tests.lab.phony_distros import DISTROS, MACS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

WORKER_TIMEOUT_S = 600.0
BEFORE, AFTER, FIRST = "osmorphing_pre_os_mount", "osmorphing_post_os_mount", "replica_first_boot"


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for tool in ("mke2fs", "sfdisk", "qemu-img", "busybox", "rpmbuild"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


def qcow2(raw: Path) -> Path:
    disk = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    raw.unlink()
    return disk


def convert(disk: Path, key: str, *scripts: tuple[str, str], **job: Any) -> tuple[dict[str, Any], list[str]]:
    """The worker's result for the guest on ``disk``, which it changes, and what it said."""
    said: list[str] = []
    nics = [{"mac": mac, "name": "", "addressing": "keep"} for mac, _ in zip(MACS, DISTROS[key].nics, strict=False)]
    document = {
        "platform": "kvm",
        "nics": nics,
        "scripts": [{"phase": phase, "name": f"own {n}", "payload": text} for n, (phase, text) in enumerate(scripts)],
        "passphrases": [],
        **job,
    }
    request = {"op": "convert", "accelerator": "tcg", "memory_mb": 1024, "disks": [str(disk)], "job": document}
    work = disk.parent / "run"
    work.mkdir(exist_ok=True)
    result = asyncio.run(run_worker(request, said.append, run_dir=work, timeout_s=WORKER_TIMEOUT_S))
    print("\n".join(said))
    return result, said


def test_a_phony_ubuntu_with_scripts_in_every_phase(tmp_path: Path) -> None:
    make_plain("ubuntu2204", tmp_path / "disk.raw")
    disk = qcow2(tmp_path / "disk.raw")
    look = "#!/bin/sh\ntest -b /dev/sda && ! test -e /etc/netplan && echo nothing is mounted\n"
    edit = "grep -q 22.04 /etc/os-release && echo run as $(id -u) && echo changed >/etc/motd\n"
    result, said = convert(disk, "ubuntu2204", (BEFORE, look), (AFTER, edit), (FIRST, "echo later\n"))
    assert result["system"]["title"] == "Ubuntu 22.04 LTS"
    assert result["facts"]["packages"] == ["first boot: qemu-guest-agent"]
    assert dict(result["facts"]["pins"]) == {MACS[0]: "ens192", MACS[1]: "ens224"}
    assert "script own 0: nothing is mounted" in said
    assert "script own 1: run as 0" in said
    assert "open-vm-tools belongs to another platform" in said


@pytest.mark.full
def test_a_script_before_the_mount_that_fails_ends_with_its_last_words(tmp_path: Path) -> None:
    make_plain("ubuntu2204", tmp_path / "disk.raw")
    with pytest.raises(InvalidInput, match=r"own 0 failed with status 3.*last words"):
        convert(qcow2(tmp_path / "disk.raw"), "ubuntu2204", (BEFORE, "echo last words\nexit 3\n"))


def run_a_fork_bomb(disk: Path, timeout_s: float) -> None:
    from coriolis.convert.guestfs_guest import launched
    from coriolis.convert.mount import mount_guest

    with launched([str(disk)], "tcg", 1024) as handle:
        guest = mount_guest(handle, [], print)
        guest.run(["/bin/sh", "-c", "b() { b | b & }; b; sleep 1000"], timeout_s=timeout_s)


@pytest.mark.full
def test_a_fork_bomb_ends_in_a_reason(tmp_path: Path) -> None:
    make_plain("ubuntu2204", tmp_path / "disk.raw")
    disk, started = qcow2(tmp_path / "disk.raw"), time.monotonic()
    with pytest.raises((TimedOut, Unavailable)) as caught:
        run_a_fork_bomb(disk, 20)
    print(caught.value, time.monotonic() - started)
    assert time.monotonic() - started < 180


@pytest.mark.full
@pytest.mark.parametrize("key", DISTROS)
def test_every_family(tmp_path: Path, key: str) -> None:
    efi = key in ("rhel8", "fedora39", "debian11", "sles15")
    make_lvm(key, tmp_path / "disk.raw", efi=efi)
    result, _ = convert(qcow2(tmp_path / "disk.raw"), key, efi=efi)
    assert result["facts"]["kernel_versions"] == [DISTROS[key].kernel]
    assert result["facts"]["way"] == "fast"
