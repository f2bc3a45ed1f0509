"""Disks of guests that want to hurt, and what of this machine must not change meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coriolis.convert.linux import inject
from coriolis.convert.linux.kept_aside import BEFORE
from coriolis.convert.worker_process import run_worker
from tests.fault.children import processes
from tests.fault.conversion import descendants
from tests.lab.phony_disk import make_plain
from tests.lab.phony_distros import DISTROS, MACS
from tests.lab.phony_files import link, put

MIB = 1 << 20
GUEST = "debian11"
KERNEL = DISTROS[GUEST].kernel
TIMEOUT_S = 300.0
WATCHED = ("/etc/passwd", "/etc/shadow", "/etc/fstab", "/usr/sbin", "/boot")
Alter = Callable[[Path, Path], None]


def pipe(top: Path, path: str) -> None:
    (top / path).parent.mkdir(parents=True, exist_ok=True)
    (top / path).unlink(missing_ok=True)
    os.mkfifo(top / path)


def device(top: Path, path: str, kind: int, major: int, minor: int) -> None:
    (top / path).parent.mkdir(parents=True, exist_ok=True)
    (top / path).unlink(missing_ok=True)
    os.mknod(top / path, kind | 0o666, os.makedev(major, minor))


def sparse(top: Path, path: str, size: int) -> None:
    put(top, path, b"")
    os.truncate(top / path.lstrip("/"), size)


def traps(canary: Path) -> Alter:
    """A file tree full of traps over which a conversion still ends well. ``canary``: a file of this machine."""

    def alter(top: Path, boot: Path) -> None:
        # Absolute links that the guest itself needs: /boot is mounted over one, an edited file lies behind one
        (top / "boot").rmdir()
        (top / "srv/boot").mkdir(parents=True)
        link(top, "/boot", "/srv/boot")
        put(top, "/srv/net/interfaces", (top / "etc/network/interfaces").read_bytes())
        (top / "etc/network/interfaces").unlink()
        link(top, "/etc/network/interfaces", "/srv/net/interfaces")
        # Places where conversion writes: a program that waits for a pipe, a program of the appliance
        pipe(top, f"{BEFORE}/etc/network/interfaces".lstrip("/"))
        link(top, "/etc/initramfs-tools/conf.d/resume", f"/../../../../../..{canary}")
        link(top, "/etc/crypttab", str(canary))
        (top / "etc/default/grub").unlink()
        link(top, "/etc/default/grub", "/../../../../etc/passwd")
        put(top, inject.RECORD, '{"/etc/passwd": {"old_size": 200, "added": 1}}' + "[" * 100_000)
        # What is no file
        pipe(top, "etc/netplan/pipe.yaml")
        link(top, "/etc/netplan/zero.yaml", "/dev/zero")
        link(top, "/etc/netplan/loop.yaml", "loop.yaml")
        link(top, "/etc/netplan/long.yaml", "x/" * 2000)
        device(top, "etc/netplan/disk.yaml", stat.S_IFBLK, 8, 0)
        device(top, "etc/netplan/memory.yaml", stat.S_IFCHR, 1, 1)
        link(top, f"/etc/systemd/network/{'n' * 240}.link", f"../../..{canary}")
        link(top, "/lib/modules/9.9.9/modules.dep", "/dev/sda")
        link(top, "/lib/modules/8.8.8", "8.8.8")
        for name in ("initrd.img-9.9.9", "vmlinuz-8.8.8"):
            (boot / name).symlink_to("/dev/zero")
        os.mkfifo(boot / "initrd.img-7.7.7")
        # Names, and what the guest says of itself
        for name in (b"line\nbreak\x1b[2J.yaml", b"latin-\xe4\xff.yaml", b"-rf", b"$(reboot).yaml"):
            Path(os.fsdecode(os.fsencode(top) + b"/etc/netplan/" + name)).write_bytes(b"network: {}\n")
        bomb = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        put(top, "/etc/netplan/bomb.yaml", f"network:\n  a0: &a0 [x]\n{bomb}  ethernets:\n    eth9: *a29\n")
        put(top, "/etc/systemd/network/huge.link", "Name=" + "x" * (2 * MIB - 100))
        (top / "etc/os-release").unlink(missing_ok=True)
        put(top, "/etc/os-release", f"ID=debian\nVERSION_ID=11\nPRETTY_NAME='\x1b]0;x\a\x1b[2J'\nNAME={'x' * MIB}\n")
        # For what is asked of the guest directly
        (top / "many").mkdir()
        for number in range(20_000):
            (top / "many" / f"file-{number}").symlink_to("x")
        sparse(top, "/sparse", 10 << 30)
        link(top, "/outside", str(canary))

    return alter


def instead(path: str, make: Callable[[Path, str], None]) -> Alter:
    """``path`` made anew by ``make``, which gets the directory and the path in it."""

    def alter(top: Path, boot: Path) -> None:
        where, rest = (boot, path.removeprefix("/boot/")) if path.startswith("/boot/") else (top, path.lstrip("/"))
        (where / rest).unlink(missing_ok=True)
        make(where, rest)

    return alter


def packed_zeroes(tool: str, size: int) -> bytes:
    """A bomb: ``size`` bytes of zeroes as ``tool`` packs them."""
    if tool == "gzip":
        return gzip.compress(bytes(size), 1)
    script = f"head -c {size} /dev/zero | {tool} -1 -c"
    return subprocess.run(["sh", "-c", script], check=True, stdout=subprocess.PIPE).stdout


def hostile_disk(folder: Path, alter: Alter, guest: str = GUEST) -> Path:
    raw, disk = folder / "hostile.raw", folder / "hostile.qcow2"
    make_plain(guest, raw, alter)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    raw.unlink()
    return disk


@contextmanager
def nothing_else_changes(canary: Path) -> Iterator[None]:
    """Assert that this machine is as before: files that traps lead to, and no process is left."""

    def look() -> dict[str, tuple[int, ...]]:
        found = {}
        for path in (*WATCHED, canary):
            state = os.stat(path)
            found[str(path)] = (state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns)
        return found

    before, content = look(), canary.read_bytes()
    # the suite's own services, e.g. a simulated vCenter, live as long as it, and have children of their own
    ours = set(descendants(os.getpid()))
    yield
    assert look() == before
    assert canary.read_bytes() == content
    theirs = {child for service in ours for child in descendants(service)}
    assert set(descendants(os.getpid())) - ours - theirs == set()


def convert_disk(disk: Path, guest: str = GUEST, **job: Any) -> tuple[dict[str, Any], list[str], int]:
    """(result, what was said, most bytes of memory that the worker held)."""
    said: list[str] = []
    nics = [{"mac": mac, "name": "", "addressing": "dhcp"} for mac, _ in zip(MACS, DISTROS[guest].nics, strict=False)]
    document = {"platform": "kvm", "nics": nics, "scripts": [], "passphrases": [], **job}
    request = {"op": "convert", "accelerator": "tcg", "memory_mb": 1024, "disks": [str(disk)], "job": document}
    work = disk.parent / "run"
    work.mkdir(exist_ok=True)
    with worker_memory() as peak:
        try:
            result = asyncio.run(run_worker(request, said.append, run_dir=work, timeout_s=TIMEOUT_S))
        finally:
            print("\n".join(said))
    assert all(line.isprintable() and len(line) < 2000 for line in said)
    return result, said, peak[0]


@contextmanager
def worker_memory() -> Iterator[list[int]]:
    """Its one element grows to the most resident bytes of this process's worker, read five times a second."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for pid, parent in processes(b"coriolis.convert.guest_worker"):
                if parent != os.getpid():
                    continue
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                except OSError:
                    continue
                held = [int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")]
                peak[0] = max([peak[0], *held])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
