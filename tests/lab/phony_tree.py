"""The file tree of a phony Linux guest: right for inspection and for a conversion at the level of files, not bootable.

``build`` makes it in a directory without privileges, so that a unit test can convert it; ``make_phony_linux`` makes
a disk of it.
"""

from __future__ import annotations

import gzip
import posixpath
from dataclasses import dataclass
from pathlib import Path

from coriolis.convert.linux import cpio
from tests.lab.phony_agents import agents, cloud_init, packages
from tests.lab.phony_distros import Distro
from tests.lab.phony_files import compressed, elf, kernel_image, link, put
from tests.lab.phony_network import network
from tests.unit.convert.phony_module import phony_module

OF_THE_ORIGIN = ("vmw_pvscsi", "vmxnet3", "sd_mod")
"""What the old initramfs holds."""
MODULES = {
    "drivers/virtio/virtio": ([], ["register_virtio_driver"], []),
    "drivers/virtio/virtio_ring": ([], ["vring_new"], ["register_virtio_driver"]),
    "drivers/virtio/virtio_pci": (["pci:v00001AF4d*sv*sd*bc*sc*i*"], [], ["register_virtio_driver", "vring_new"]),
    "drivers/virtio/virtio_balloon": (["virtio:d00000005v*"], [], ["register_virtio_driver"]),
    "drivers/block/virtio_blk": (["virtio:d00000002v*"], [], ["register_virtio_driver"]),
    "drivers/net/virtio_net": (["virtio:d00000001v*"], [], ["register_virtio_driver"]),
    "drivers/scsi/virtio_scsi": (["virtio:d00000008v*"], [], ["register_virtio_driver"]),
    "drivers/char/hw_random/virtio-rng": (["virtio:d00000004v*"], [], ["register_virtio_driver"]),
    "drivers/scsi/vmw_pvscsi": (["pci:v000015ADd000007C0sv*sd*bc*sc*i*"], [], []),
    "drivers/net/vmxnet3/vmxnet3": (["pci:v000015ADd000007B0sv*sd*bc*sc*i*"], [], []),
    "drivers/scsi/sd_mod": (["scsi:t-0x00*"], [], []),
    "drivers/scsi/sr_mod": (["scsi:t-0x05*"], [], []),
    "drivers/nvme/host/nvme": (["pci:v*d*sv*sd*bc01sc08i02*"], [], []),
    "drivers/ata/ahci": (["pci:v*d*sv*sd*bc01sc06i01*"], [], []),
    "drivers/hv/hv_vmbus": (["acpi*:VMBUS:*"], ["vmbus_open"], []),
    "drivers/scsi/hv_storvsc": (["vmbus:d96361baa104294db60572e2ffb1dc7f"], [], ["vmbus_open"]),
    "drivers/net/hyperv/hv_netvsc": (["vmbus:635161f83edfc546913ff2d2f965ed0e"], [], ["vmbus_open"]),
    "drivers/net/ethernet/amazon/ena/ena": (["pci:v00001D0Fd0000EC20sv*sd*bc*sc*i*"], [], []),
    "drivers/net/ethernet/google/gve/gve": (["pci:v00001AE0d00000042sv*sd*bc*sc*i*"], [], []),
}
NEEDS = {
    "virtio_ring": ("drivers/virtio/virtio",),
    "virtio_pci": ("drivers/virtio/virtio", "drivers/virtio/virtio_ring"),
    "hv_storvsc": ("drivers/hv/hv_vmbus",),
    "hv_netvsc": ("drivers/hv/hv_vmbus",),
}
_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/log", "var/lib", "var/tmp", "tmp", "boot/efi")
_ROOT_TOO = ("root", "home", "proc", "sys", "dev", "run", "opt", "etc")


@dataclass(frozen=True, slots=True)
class Disk:
    """Where the tree will lie. ``boot``: number of the partition of ``/boot``; the root follows it, or is a volume."""

    root_device: str
    boot: int
    efi: bool


def disk_for(distro: Distro, key: str, *, efi: bool = False, lvm: bool = True) -> Disk:
    boot = 2 if efi else 1
    group, volume = group_and_volume(distro, key)
    mapped = f"/dev/mapper/{group.replace('-', '--')}-{volume.replace('-', '--')}"
    return Disk(mapped if lvm else f"/dev/sda{boot + 1}", boot, efi)


def group_and_volume(distro: Distro, key: str) -> tuple[str, str]:
    """Names of LVM as the distribution's installer gives them."""
    groups = {"ubuntu": "ubuntu-vg", "debian": f"{key}-vg", "sles": "system", "opensuse-leap": "system"}
    return groups.get(distro.identity, distro.identity), "ubuntu-lv" if distro.identity == "ubuntu" else "root"


def build(top: Path, distro: Distro, key: str, disk: Disk) -> None:
    """Write the whole tree below the directory ``top``."""
    for name in (*_DIRECTORIES, *_ROOT_TOO):
        (top / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if distro.merged_usr:
            link(top, f"/{name}", f"usr/{name}")
        else:
            (top / name).mkdir()
    (top / "tmp").chmod(0o1777)
    release(top, distro)
    base(top, distro, disk)
    network(top, distro, f"{key}-src")
    kernel(top, distro)
    loader(top, distro, disk)
    packages(top, distro)
    agents(top, distro)
    if distro.cloud_init:
        cloud_init(top)


def release(top: Path, distro: Distro) -> None:
    fields = {
        "NAME": f'"{distro.title}"',
        "VERSION": f'"{distro.version}"',
        "ID": distro.identity,
        "ID_LIKE": f'"{distro.like}"' if distro.like else "",
        "VERSION_ID": f'"{distro.version}"',
        "PRETTY_NAME": f'"{distro.pretty}"',
        "VERSION_CODENAME": distro.code,
    }
    if distro.os_release:
        put(top, "/etc/os-release", "".join(f"{key}={value}\n" for key, value in fields.items() if value))
    if distro.release:
        own = {"centos": "centos", "fedora": "fedora", "rocky": "rocky", "ol": "oracle", "amzn": "system"}
        if distro.identity != "amzn":
            put(top, "/etc/redhat-release", f"{distro.release}\n")
        if distro.identity in own:
            put(top, f"/etc/{own[distro.identity]}-release", f"{distro.release}\n")
    if distro.identity == "sles" and distro.version.startswith("12"):
        level = distro.version.partition(".")[2]
        put(top, "/etc/SuSE-release", f"{distro.title} 12 (x86_64)\nVERSION = 12\nPATCHLEVEL = {level}\n")
    if distro.is_deb:
        put(top, "/etc/debian_version", f"{distro.version}.0\n" if distro.identity == "debian" else "sid\n")
    if distro.identity == "ubuntu":
        text = f'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE={distro.version}\nDISTRIB_DESCRIPTION="{distro.pretty}"\n'
        put(top, "/etc/lsb-release", text)


def base(top: Path, distro: Distro, disk: Disk) -> None:
    """Accounts, fstab, init and udev, SELinux."""
    esp = "/dev/sda1 /boot/efi vfat umask=0077 0 2\n" if disk.efi else ""
    boot = f"/dev/sda{disk.boot} /boot ext4 defaults 1 2\n"
    put(top, "/etc/fstab", f"{disk.root_device} / {distro.file_system} defaults 0 1\n{boot}{esp}")
    put(top, "/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    put(top, "/etc/group", "root:x:0:\n")
    put(top, "/etc/shadow", "root:*:19000:0:99999:7:::\n", 0o600)
    put(top, "/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    put(top, "/usr/bin/bash" if distro.merged_usr else "/bin/bash", elf(), 0o755)
    if distro.init == "systemd":
        put(top, "/usr/lib/systemd/systemd", elf(), 0o755)
        link(top, "/sbin/init", "../usr/lib/systemd/systemd" if not distro.merged_usr else "../lib/systemd/systemd")
        put(top, "/usr/lib/systemd/systemd-udevd", elf(), 0o755)
        put(
            top, "/usr/lib/udev/rules.d/80-net-setup-link.rules", 'SUBSYSTEM=="net", IMPORT{builtin}="net_setup_link"\n'
        )
    else:
        put(top, "/sbin/init", elf(), 0o755)
        put(
            top, "/etc/init/tty1.conf", "exec /sbin/getty -8 38400 tty1\n" if distro.is_deb else "exec /sbin/mingetty\n"
        )
        for level in range(7):
            (top / ("etc" if distro.is_deb else "etc/rc.d") / f"rc{level}.d").mkdir(parents=True)
        if not distro.is_deb:
            for level in range(7):
                link(top, f"/etc/rc{level}.d", f"rc.d/rc{level}.d")
            link(top, "/etc/init.d", "rc.d/init.d")
            (top / "etc/rc.d/init.d").mkdir()
    if distro.selinux:
        put(top, "/etc/selinux/config", f"SELINUX={distro.selinux}\nSELINUXTYPE=targeted\n")


def kernel(top: Path, distro: Distro) -> None:
    """Kernel, its modules, and an initramfs that knows VMware only."""
    version, tree = distro.kernel, f"/lib/modules/{distro.kernel}"
    put(top, f"/boot/vmlinuz-{version}", kernel_image(version))
    put(top, f"/boot/System.map-{version}", "ffffffff81000000 T _text\n")
    put(top, f"/boot/config-{version}", "CONFIG_X86_64=y\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\n")
    lines = []
    for path, (aliases, exports, needs) in MODULES.items():
        file = f"kernel/{path}.ko"
        ending = distro.suffix.removeprefix(".ko")
        put(top, f"{tree}/{file}{ending}", compressed(phony_module(aliases, exports, needs), distro.suffix))
        wanted = NEEDS.get(posixpath.basename(path), ())
        if not wanted and "register_virtio_driver" in needs:
            wanted = ("drivers/virtio/virtio",)
        lines.append(f"{file}{ending}: {' '.join(f'kernel/{one}.ko{ending}' for one in wanted)}".rstrip())
    put(top, f"{tree}/modules.dep", "".join(f"{line}\n" for line in lines))
    put(top, f"{tree}/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
    put(top, f"{tree}/modules.order", "".join(f"kernel/{path}.ko\n" for path in MODULES))
    for name in ("modules.dep.bin", "modules.alias.bin", "modules.softdep"):
        put(top, f"{tree}/{name}", f"phony {name}\n")
    put(top, distro.initramfs, early() + gzip.compress(initramfs(distro), mtime=0))
    if distro.is_deb:
        put(top, "/etc/initramfs-tools/modules", "# List of modules\n")
        put(top, "/etc/initramfs-tools/initramfs.conf", "MODULES=dep\n")
        for name in ("update-initramfs", "mkinitramfs"):
            put(top, f"/usr/sbin/{name}", elf(), 0o755)
    else:
        put(top, "/etc/dracut.conf", "# phony\n")
        (top / "etc/dracut.conf.d").mkdir(exist_ok=True)
        put(top, "/sbin/dracut" if not distro.merged_usr else "/usr/bin/dracut", elf(), 0o755)


def early() -> bytes:
    writer = cpio.Writer()
    writer.add_file("kernel/x86/microcode/GenuineIntel.bin", b"phony")
    return writer.finish()


def initramfs(distro: Distro) -> bytes:
    writer = cpio.Writer()
    writer.add_file("usr/lib/systemd/systemd-udevd" if distro.init == "systemd" else "sbin/udevd", b"phony")
    top = "usr/lib" if distro.merged_usr else "lib"
    for path, (aliases, exports, needs) in MODULES.items():
        if posixpath.basename(path) in OF_THE_ORIGIN:
            # dracut unpacks what it takes along
            writer.add_file(f"{top}/modules/{distro.kernel}/kernel/{path}.ko", phony_module(aliases, exports, needs))
    return writer.finish()


def loader(top: Path, distro: Distro, disk: Disk) -> None:
    """GRUB of either generation, or entries of the boot loader specification. ``/boot`` is a partition of its own."""
    version, image = distro.kernel, posixpath.basename(distro.initramfs)
    arguments = f"root={disk.root_device} ro quiet"
    if distro.loader == "grub1":
        entry = f"\troot (hd0,0)\n\tkernel /vmlinuz-{version} {arguments}\n\tinitrd /{image}\n"
        put(top, "/boot/grub/grub.conf", f"default=0\ntimeout=5\ntitle {distro.pretty}\n{entry}")
        link(top, "/boot/grub/menu.lst", "grub.conf")
        put(top, "/boot/grub/device.map", "(hd0)     /dev/sda\n")
        return
    where = "grub" if distro.loader == "grub2-debian" else "grub2"
    word = "16" if distro.identity in ("rhel", "centos") and distro.version.startswith("7") else ""
    config = f'set timeout=5\nmenuentry "{distro.pretty}" {{\n\tlinux{word} /vmlinuz-{version} {arguments}\n'
    config += f"\tinitrd{word} /{image}\n}}\n"
    defaults = f'GRUB_TIMEOUT=5\nGRUB_DISTRIBUTOR="{distro.title}"\nGRUB_CMDLINE_LINUX="rhgb quiet"\n'
    environment = ""
    if distro.loader == "bls":
        config = "set timeout=5\nblscfg\n"
        defaults += "GRUB_ENABLE_BLSCFG=true\n"
        options = arguments
        if distro.version.startswith("8"):
            options, environment = "$kernelopts $tuned_params", f"kernelopts={arguments}\n"
        entry = f"title {distro.pretty}\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /{image}\n"
        put(top, f"/boot/loader/entries/0123456789abcdef-{version}.conf", f"{entry}options {options}\n")
    put(top, "/etc/default/grub", defaults)
    put(top, f"/boot/{where}/grub.cfg", config)
    put(top, f"/boot/{where}/grubenv", f"# GRUB Environment Block\n{environment}".ljust(1024, "#"))
    put(top, f"/boot/{where}/device.map", "(hd0)     /dev/sda\n")
    if disk.efi:
        vendor = {"rhel": "redhat", "ol": "redhat", "opensuse-leap": "opensuse"}.get(distro.identity, distro.identity)
        for name in ("shimx64.efi", "grubx64.efi"):
            put(top, f"/boot/efi/EFI/{vendor}/{name}", b"MZphony")
        put(top, f"/boot/efi/EFI/{vendor}/grub.cfg", config)
