"""The lab's guests that are converted here, and the disks of one of them: replicas and volumes as raw files."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.images import copy_sparse
from bench.scene import ROOT

Name = Literal["bios", "dracut", "lvm", "uefi", "lvm-second"]
GUEST_CACHE = ROOT / "tests" / "lab" / "guest_cache"
OPTIONS: dict[Name, tuple[str, ...]] = {
    "bios": (),
    "dracut": ("--dracut",),
    "lvm": ("--lvm",),
    "uefi": ("--firmware", "uefi"),
    "lvm-second": ("--lvm-second",),
}
"""Options of tests/lab/make_debian_guest for each guest: all of them know their disk as /dev/sda only."""
NAMES: tuple[Name, ...] = tuple(OPTIONS)


@dataclass(frozen=True)
class Guest:
    """``replicas``: raw files in boot order; nobody writes to them."""

    name: Name
    uefi: bool
    replicas: tuple[Path, ...]

    def fresh_volumes(self, directory: Path) -> tuple[Path, ...]:
        """A copy of each replica in ``directory``, over those of a former run."""
        volumes = tuple(directory / f"volume-{index}.raw" for index in range(len(self.replicas)))
        for replica, volume in zip(self.replicas, volumes, strict=True):
            volume.unlink(missing_ok=True)
            copy_sparse(replica, volume)
        return volumes


def provide(name: Name, directory: Path) -> Guest:
    """The guest out of the lab's cache, which builds it once (a few minutes, needs root), as raw files.

    Raises OSError when it cannot be built.
    """
    found = subprocess.run([GUEST_CACHE, *OPTIONS[name]], capture_output=True, text=True)
    if found.returncode:
        raise OSError(f"{name}: the guest cannot be built: {found.stderr.strip()[-600:]}")
    disk = Path(found.stdout.strip())
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    replicas = []
    for index, source in enumerate(each for each in (disk, Path(f"{disk}.second")) if each.exists()):
        replicas.append(directory / f"replica-{index}.raw")
        subprocess.run(["qemu-img", "convert", "-O", "raw", source, replicas[-1]], check=True)
    return Guest(name, "--firmware" in OPTIONS[name], tuple(replicas))
