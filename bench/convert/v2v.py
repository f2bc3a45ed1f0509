"""virt-v2v-in-place on copies of the same disks, with what its own disk server reads and writes counted.

It serves each disk to its appliance by an nbdkit of its own, found through PATH. A script of that name stands before
it there and adds nbdkit's ``stats`` filter: nothing more lies between the tool and the disk than without the bench.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from bench.convert.rows import Sample
from bench.measure import Tracked
from tests.lab.boot import DEFAULT_MAC

PROGRAM = "virt-v2v-in-place"
PACKAGE = "virt-v2v"
TIMEOUT_S = 1800.0
STATS_WAIT_S = 10.0
"""Its servers end a moment after it, and write their counts then."""
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_COUNTED = re.compile(r"^(read|write): \d+ ops, .*? ([0-9.]+) (bytes|KiB|MiB|GiB|TiB)(?:,|$)", re.MULTILINE)


def missing() -> str:
    """Why it cannot run here, or nothing."""
    for program, package in ((PROGRAM, PACKAGE), ("nbdkit", "nbdkit")):
        if shutil.which(program) is None:
            return f"{program} is not here: apt-get install --no-install-recommends {package}"
    return ""


def domain(volumes: Sequence[Path], uefi: bool) -> str:
    """libvirt's XML of a machine with VMware's hardware; disks are sda, sdb, …"""
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file={quoteattr(str(volume))}/>"
        f"<target dev='sd{chr(ord('a') + index)}' bus='scsi'/></disk>\n"
        for index, volume in enumerate(volumes)
    )
    return (
        "<domain type='kvm'><name>bench</name><memory unit='MiB'>1024</memory><vcpu>2</vcpu>\n"
        f"<os{' firmware=' + quoteattr('efi') if uefi else ''}><type arch='x86_64'>hvm</type></os>\n"
        f"<features><acpi/></features><devices>\n{disks}"
        f"<interface type='network'><source network='default'/><mac address={quoteattr(DEFAULT_MAC)}/>"
        "<model type='vmxnet3'/></interface></devices></domain>\n"
    )


def counts(stats: str) -> tuple[int, int]:
    """(bytes read, bytes written) in the text of nbdkit's stats filter; an operation that never came has no line."""
    found = {match[1]: int(float(match[2]) * _UNITS[match[3]]) for match in _COUNTED.finditer(stats)}
    return found.get("read", 0), found.get("write", 0)


def counting_nbdkit(nbdkit: str, directory: Path) -> str:
    """The script that stands before nbdkit: a server of a socket gets the filter, all else goes through."""
    return (
        "#!/bin/sh\n"
        f'case " $* " in *" --unix "*) exec {nbdkit} --filter=stats "$@" statsfile="{directory}/$$.stats" ;; esac\n'
        f'exec {nbdkit} "$@"\n'
    )


def convert(volumes: Sequence[Path], uefi: bool, accelerator: str, work: Path, log: Path) -> Sample:
    """Raises OSError with the end of its log when it fails, TimeoutError."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "bin").mkdir(parents=True)
    nbdkit = work / "bin" / "nbdkit"
    nbdkit.write_text(counting_nbdkit(shutil.which("nbdkit") or "nbdkit", work))
    nbdkit.chmod(0o755)
    (work / "guest.xml").write_text(domain(volumes, uefi))
    log.write_bytes(b"")
    started = time.monotonic()
    process = Tracked(
        [PROGRAM, "-i", "libvirtxml", str(work / "guest.xml")], log=log, environ=environment(accelerator, work)
    )
    try:
        process.wait(TIMEOUT_S)
    finally:
        # it takes its appliance and its servers along when it is asked to end
        if process.process.returncode is None:
            process.stop()
        process.abandon()
    if process.process.returncode:
        raise OSError(f"{PROGRAM} ended with {process.process.returncode}:\n{process.tail()}")
    read, written = _all_counts(work, len(volumes))
    return Sample(process.ended_at - started, read, written, said=tuple(process.tail(40).splitlines()))


def environment(accelerator: str, work: Path) -> dict[str, str]:
    """What makes it run as ours does: the appliance started directly, with the accelerator that works here."""
    return {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg" if accelerator == "tcg" else "force_kvm",
        "LIBGUESTFS_CACHEDIR": os.environ.get("LIBGUESTFS_CACHEDIR", "/var/tmp"),
        "PATH": f"{work / 'bin'}:{os.environ['PATH']}",
        "TMPDIR": str(work),
        "LC_ALL": "C",
    }


def _all_counts(work: Path, disks: int) -> tuple[int, int]:
    deadline = time.monotonic() + STATS_WAIT_S
    while True:
        texts = [path.read_text() for path in work.glob("*.stats")]
        if len(texts) >= disks and all("total:" in text for text in texts):
            found = [counts(text) for text in texts]
            return sum(read for read, _ in found), sum(written for _, written in found)
        if time.monotonic() > deadline:
            raise OSError(f"{PROGRAM}: its disk servers left no counts")
        time.sleep(0.1)
