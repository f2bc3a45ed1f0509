"""The smallest RHEL with dracut that a conversion accepts: compressed modules, an image that knows old disks."""

from __future__ import annotations

import gzip
import lzma
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from coriolis.convert.linux import cpio
from tests.unit.convert.directory_guest import ROOT_UUID, DirectoryGuest
from tests.unit.convert.phony_module import phony_module

VERSION = "5.14.0-362.el9.x86_64"
IMAGE = f"/boot/initramfs-{VERSION}.img"
TREE = f"lib/modules/{VERSION}"
WAIT_HOOK = "var/lib/dracut/hooks/initqueue/finished/devexists-\\x2fdev\\x2fsda2.sh"
STABLE_HOOK = f"var/lib/dracut/hooks/initqueue/finished/devexists-\\x2fdev\\x2fdisk\\x2fby-uuid\\x2f{ROOT_UUID}.sh"
TIMEOUT = "etc/systemd/system/dev-sda2.device.d/timeout.conf"
MODULES = {
    "kernel/drivers/virtio/virtio.ko": phony_module(exports=["register_virtio_driver"]),
    "kernel/drivers/virtio/virtio_ring.ko": phony_module(exports=["vring_new"], needs=["register_virtio_driver"]),
    "kernel/drivers/virtio/virtio_pci.ko": phony_module(
        ["pci:v00001AF4d*sv*sd*bc*sc*i*"], needs=["register_virtio_driver", "vring_new"]
    ),
    "kernel/drivers/block/virtio_blk.ko": phony_module(["virtio:d00000002v*"], needs=["register_virtio_driver"]),
}
NEEDS = {
    "virtio": [],
    "virtio_ring": ["virtio"],
    "virtio_pci": ["virtio", "virtio_ring"],
    "virtio_blk": ["virtio"],
}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".zst": lambda data: by_tool("zstd", data),
}


def by_tool(tool: str, data: bytes) -> bytes:
    """``data`` as the compressor ``tool`` of this machine packs it."""
    options = ["-l"] if tool == "lz4" else []
    return subprocess.run([tool, "-c", *options], input=data, stdout=subprocess.PIPE, check=True).stdout


def old_image(present: tuple[str, ...] = ("kernel/drivers/virtio/virtio.ko",)) -> bytes:
    """What dracut built on the old host: one of the modules, udev, and what it knew of the disks there."""
    writer = cpio.Writer()
    for path in present:
        writer.add_file(f"usr/{TREE}/{path}", MODULES[path])
    files = {
        "usr/lib/systemd/systemd-udevd": b"udev",
        "etc/cmdline.d/95root-dev.conf": b" root=/dev/sda2 rootfstype=xfs rootflags=rw\n",
        "etc/lvm/devices/system.devices": b"IDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda3\n",
        "etc/fstab": b"/dev/sda2 /sysroot xfs defaults 0 0\n",
        WAIT_HOOK: b"[ -e /dev/sda2 ]\n",
        STABLE_HOOK: b"[ -e /dev/disk/by-uuid ]\n",
        TIMEOUT: b"[Unit]\nJobTimeoutSec=3600\n",
    }
    for name, data in files.items():
        writer.add_file(name, data)
    writer.replace_by_link("etc/systemd/system/initrd.target.wants/dev-sda2.device", "../dev-sda2.device")
    return writer.finish()


def early() -> bytes:
    writer = cpio.Writer()
    writer.add_file("kernel/x86/microcode/AuthenticAMD.bin", b"microcode")
    return writer.finish()


def dracut_guest(top: Path, *, module_ending: str = ".xz", image: bytes | None = None) -> DirectoryGuest:
    guest = DirectoryGuest(top, {"/dev/sda2": ROOT_UUID})
    files = {
        IMAGE: early() + bytes(512) + gzip.compress(old_image()) if image is None else image,
        f"/boot/initramfs-{VERSION}kdump.img": b"crash",
        "/boot/initramfs-0-rescue-0123.img": b"rescue",
        f"/boot/vmlinuz-{VERSION}": b"kernel",
        f"/boot/config-{VERSION}": b"CONFIG_RD_GZIP=y\n",
        "/boot/grub2/grub.cfg": b"set default=0\nblscfg\n",
        "/boot/grub2/grubenv": environment(b"saved_entry=x\nkernelopts=root=/dev/sda2 ro crashkernel=auto \n"),
        f"/boot/loader/entries/x-{VERSION}.conf": entry(VERSION),
        "/boot/loader/entries/x-0-rescue.conf": entry("0-rescue-0123"),
        "/etc/os-release": b'ID="rhel"\nVERSION_ID="9.3"\nPRETTY_NAME="Red Hat Enterprise Linux 9.3 (Plow)"\n',
        "/etc/fstab": b"/dev/sda2 / xfs defaults 0 0\n",
        "/etc/dracut.conf.d/.keep": b"",
        "/usr/bin/dracut": b"",
        f"/{TREE}/modules.builtin": b"kernel/drivers/scsi/sd_mod.ko\n",
    }
    dep = ""
    paths = {path.rpartition("/")[2].removesuffix(".ko"): path + module_ending for path in MODULES}
    for name, path in paths.items():
        dep += f"{path}: {' '.join(paths[one] for one in NEEDS[name])}\n"
        files[f"/{TREE}/{path}"] = PACK[module_ending](MODULES[path.removesuffix(module_ending)])
    files[f"/{TREE}/modules.dep"] = dep.encode()
    for path, data in files.items():
        guest.write(path, data)
    return guest


def entry(version: str) -> bytes:
    """A BLS entry as RHEL 8 has it: its arguments are in GRUB's environment."""
    lines = [f"title {version}", f"version {version}", f"linux /vmlinuz-{version}", "options $kernelopts"]
    return "\n".join(lines).encode() + b"\n"


def environment(variables: bytes) -> bytes:
    head = b"# GRUB Environment Block\n" + variables
    return head + b"#" * (1024 - len(head))


def is_directory(member: cpio.Member) -> bool:
    return stat.S_ISDIR(member.mode)
