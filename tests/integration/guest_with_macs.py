"""A phony guest whose network files name its MAC addresses: as an image folder's machine, and what a disk then says."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

from tests.lab.phony_disk import ROOT_AT, make_plain
from tests.lab.phony_distros import MACS

GUEST = "ubuntu2204"
NAMES = ("ens192", "ens224")
"""Its interfaces, one for each of MACS."""
ADDRESS = re.compile(r"^MACAddress=(.+)$", re.MULTILINE)


async def put_in(folder: Path, networks: tuple[str, str]) -> None:
    """Make the machine GUEST in an image folder; its NICs' networks."""
    await asyncio.to_thread(make_plain, GUEST, folder / "disk.raw")
    nics = "".join(
        f'[[nics]]\nnetwork_name = "{network}"\nmac_address = "{mac}"\n'
        for network, mac in zip(networks, MACS, strict=True)
    )
    (folder / f"{GUEST}.toml").write_text(
        f'name = "{GUEST}"\nnum_cpu = 1\nmemory_mb = 128\n[[disks]]\nfile = "disk.raw"\nformat = "raw"\n{nics}'
    )


async def macs_inside(disk: Path) -> list[str]:
    """By which addresses a converted GUEST finds its interfaces, in the order of NAMES."""
    return [await asyncio.to_thread(_mac_in_link_file, disk, name) for name in NAMES]


def _mac_in_link_file(disk: Path, name: str) -> str:
    show = ["debugfs", "-R", f"cat /etc/systemd/network/10-coriolis-{name}.link", f"{disk}?offset={ROOT_AT}"]
    done = subprocess.run(show, capture_output=True, text=True, timeout=60, check=True)
    found = ADDRESS.findall(done.stdout)
    assert len(found) == 1, done.stdout + done.stderr
    return str(found[0])
