"""A guest whose file system is a directory, and the smallest Debian that a conversion accepts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from coriolis.convert.linux import cpio
from coriolis.convert.linux.devices import Devices

VERSION = "6.1.0-9-amd64"
ROOT_UUID = "0a1b2c3d-1111-2222-3333-444455556666"
MODULES = {
    "kernel/drivers/virtio/virtio_pci.ko": [
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_ring.ko",
    ],
    "kernel/drivers/virtio/virtio.ko": [],
    "kernel/drivers/virtio/virtio_ring.ko": [],
    "kernel/drivers/block/virtio_blk.ko": ["kernel/drivers/virtio/virtio.ko"],
    "kernel/drivers/char/hw_random/virtio-rng.ko": [],
}


class DirectoryGuest:
    """Implements ``coriolis.convert.guest.Guest`` over ``top``; links are made and read, not followed inside."""

    def __init__(self, top: Path, uuids: dict[str, str] | None = None) -> None:
        self.top = top
        self.uuids = uuids or {"/dev/sda1": ROOT_UUID}
        self.free = 1 << 30
        self.commands: list[tuple[str, ...]] = []

    def path(self, path: str) -> Path:
        return self.top / path.lstrip("/")

    def is_file(self, path: str) -> bool:
        return self.path(path).is_file()

    def is_dir(self, path: str) -> bool:
        return self.path(path).is_dir()

    def listdir(self, path: str) -> list[str]:
        return sorted(one.name for one in self.path(path).iterdir()) if self.is_dir(path) else []

    def size(self, path: str) -> int:
        return self.path(path).stat().st_size

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        with self.path(path).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def write(self, path: str, data: bytes, mode: int | None = None) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_bytes(data)
        if mode is not None:
            self.path(path).chmod(mode)

    def remove(self, path: str) -> None:
        self.path(path).unlink(missing_ok=True)

    def read_link(self, path: str) -> str | None:
        return os.readlink(self.path(path)) if self.path(path).is_symlink() else None

    def symlink(self, target: str, path: str) -> None:
        self.remove(path)
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).symlink_to(target)

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        """Nothing of a guest runs here; commands are kept for the test to see."""
        self.commands.append(tuple(command))
        return ""

    def write_at(self, path: str, offset: int, data: bytes) -> None:
        with self.path(path).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def truncate(self, path: str, size: int) -> None:
        with self.path(path).open("r+b") as file:
            file.truncate(size)

    def copy(self, source: str, destination: str) -> None:
        self.path(destination).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path(source), self.path(destination))

    def rename(self, source: str, destination: str) -> None:
        self.path(source).rename(self.path(destination))

    def free_bytes(self, path: str) -> int:
        return self.free

    def uuid_of(self, device: str) -> str | None:
        return self.devices.uuid_of(device)

    def has_device(self, name: str) -> bool:
        return self.devices.find(name) is not None

    @property
    def devices(self) -> Devices:
        return Devices({device: {"UUID": uuid} for device, uuid in self.uuids.items()}, disks=1)


def main_archive(length: int = 1001) -> bytes:
    """Stands for a zstd-compressed initramfs of an odd size."""
    return b"\x28\xb5\x2f\xfd" + bytes(range(256)) * (length // 256 + 1)


def debian(top: Path) -> DirectoryGuest:
    """A Debian with one kernel, device names in fstab and GRUB, and a static address on ens192."""
    guest = DirectoryGuest(top)
    early = cpio.Writer()
    early.add_file("kernel/x86/microcode/GenuineIntel.bin", b"microcode")
    files = {
        f"/boot/initrd.img-{VERSION}": early.finish() + main_archive()[:1001],
        f"/boot/config-{VERSION}": b"CONFIG_X86=y\nCONFIG_RD_GZIP=y\n",
        "/boot/grub/grub.cfg": _grub_cfg(),
        "/etc/os-release": b'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "/etc/fstab": b"# <file system>\n/dev/sda1 / ext4 errors=remount-ro 0 1\n",
        "/etc/default/grub": b"GRUB_DISABLE_LINUX_UUID=true\n",
        "/etc/initramfs-tools/modules": b"# comment\nvmw_pvscsi",
        "/etc/network/interfaces": b"auto lo\niface lo inet loopback\nallow-hotplug ens192\n",
        "/lib/systemd/systemd": b"",
        "/lib/systemd/systemd-udevd": b"",
        "/lib/udev/rules.d/80-net-setup-link.rules": b"",
        "/var/lib/dpkg/status": b"Package: dpkg\nStatus: install ok installed\n",
        "/usr/sbin/mkinitramfs": b"",
    }
    tree = f"/lib/modules/{VERSION}"
    files[f"{tree}/modules.dep"] = "".join(f"{k}: {' '.join(v)}\n" for k, v in MODULES.items()).encode()
    files[f"{tree}/modules.builtin"] = b"kernel/drivers/scsi/sd_mod.ko\n"
    for name in ("modules.dep.bin", "modules.alias.bin", "modules.softdep"):
        files[f"{tree}/{name}"] = name.encode()
    for path in MODULES:
        files[f"{tree}/{path}"] = f"code of {path}".encode()
    for path, data in files.items():
        guest.write(path, data)
    return guest


def _grub_cfg() -> bytes:
    return f"""
menuentry 'Debian GNU/Linux' --class debian {{
	search --no-floppy --fs-uuid --set=root {ROOT_UUID}
	linux	/boot/vmlinuz-{VERSION} root=/dev/sda1 ro console=ttyS0
	initrd	/boot/initrd.img-{VERSION}
}}
""".encode()
