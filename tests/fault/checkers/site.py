"""I1, I2, I4 on a libvirt site: bytes of volumes, starts of domains, and what is left over."""

from __future__ import annotations

import hashlib
from pathlib import Path

MIB = 1 << 20


def sha256(path: Path, size: int) -> str:
    """Of the first ``size`` bytes; anything but zeros behind them is an error (I1)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left:
            block = file.read(min(left, MIB))
            assert block, f"{path} is shorter than {size} bytes"
            digest.update(block)
            left -= len(block)
        while block := file.read(MIB):
            assert not any(block), f"I1: {path} has data behind its end"
    return digest.hexdigest()


def starts(site: Path) -> dict[str, int]:
    """How often qemu was launched, by domain name, as libvirt logged it (I2)."""
    found = {}
    for log in (site / "log").rglob("*.log"):
        count = log.read_text(errors="replace").count(": starting up libvirt version")
        if count:
            found[log.stem] = count
    return found


def leftovers(uri: str, pool: Path, expected_domains: set[str], expected_volumes: set[str]) -> list[str]:
    """Tagged resources that are neither declared results nor gone (I4)."""
    import libvirt

    with libvirt.open(uri) as connection:
        domains = {domain.name() for domain in connection.listAllDomains()}
    volumes = {path.name for path in pool.iterdir() if path.is_file()}
    return sorted([*(domains - expected_domains), *(volumes - expected_volumes)])
