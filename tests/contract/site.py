"""A real libvirt daemon of its own and tiny emulated domains for the contract suite."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "lab" / "libvirt_site"
_numbers = itertools.count(1)


class Site:
    """``folder`` is short, since unix sockets live below it."""

    def __init__(self, folder: Path, uri: str) -> None:
        import libvirt

        self.folder, self.uri = folder, uri
        self.connection = libvirt.open(uri)
        self.pool_path = folder / "pool"
        self.pool_path.mkdir()
        pool = self.connection.storagePoolDefineXML(
            f"<pool type='dir'><name>default</name><target><path>{self.pool_path}</path></target></pool>"
        )
        pool.create()

    @property
    def connection_info(self) -> dict[str, Any]:
        return {
            "uri": self.uri,
            "scratch_dir": str(self.folder / "scratch"),
            "console_dir": str(self.folder / "console"),
            "min_scratch_free_bytes": 64 << 20,
        }

    def domain(self, disks: list[tuple[str, str, Path]], *, start: bool, paused: bool = True) -> Any:
        """Define, and start, a domain with (target, format, path) disks; it stays in its firmware."""
        import libvirt

        name = f"origin-{next(_numbers)}"
        listed = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{fmt}' discard='unmap'/>"
            f"<source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
            for target, fmt, path in disks
        )
        domain = self.connection.defineXML(
            f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>"
            f"<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{listed}"
            "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>"
            "<interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>"
            "</devices></domain>"
        )
        if start:
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
        return domain

    def discard(self, domain: Any) -> None:
        """Destroy and undefine."""
        import libvirt

        with suppress(libvirt.libvirtError):
            domain.destroy()
        with suppress(libvirt.libvirtError):
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def guest_write(domain: Any, index: int, offset: int, length: int, pattern: int) -> None:
    """Write as the guest would, through the ``index``-th virtio disk's device."""
    import libvirt_qemu

    command = f"write -P {pattern} {offset} {length}"
    device = f"/machine/peripheral/virtio-disk{index}/virtio-backend"
    answer = libvirt_qemu.qemuMonitorCommand(
        domain, f'qemu-io -d {device} "{command}"', libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    )
    assert "rror" not in answer, answer


@contextmanager
def libvirt_site() -> Iterator[Site]:
    """Start a daemon, yield it, stop it and its domains."""
    folder = Path(tempfile.mkdtemp(prefix="cor-"))
    try:
        subprocess.run([str(SCRIPT), "start", str(folder)], check=True, stdout=subprocess.DEVNULL, timeout=120)
        uri = subprocess.run(
            [str(SCRIPT), "uri", str(folder)], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()
        yield Site(folder, uri)
    finally:
        subprocess.run([str(SCRIPT), "stop", str(folder)], check=False, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)
