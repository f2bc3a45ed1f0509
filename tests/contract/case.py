"""What the contract suite needs of a provider under test."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coriolis.providers.base import Provider
from coriolis.providers.surroundings import NOTHING, Surroundings

SIZE = 8 << 20
BLOCK = 65536


def sample_disk(seed: int, size: int = SIZE) -> bytearray:
    """Random data at the start, in the middle and at the very end; zeroes between."""
    chance, disk = random.Random(seed), bytearray(size)
    for at, length in ((0, 3 * BLOCK), (size // 2 + 4096, 5000), (size - 512, 512)):
        disk[at : at + length] = chance.randbytes(length)
    return disk


def make_image(path: Path, content: bytes, fmt: str, options: str = "") -> None:
    """Write ``content`` to ``path`` in ``fmt``."""
    raw = path.with_suffix(".source")
    raw.write_bytes(content)
    argv = ["qemu-img", "convert", "-q", "-f", "raw", "-O", fmt]
    subprocess.run([*argv, *(["-o", options] if options else []), str(raw), str(path)], check=True)
    raw.unlink()


@dataclass
class Origin:
    """An instance to read. ``truth`` maps each disk id to what the guest sees now; ``write`` changes both.

    ``size``: of each disk, in bytes."""

    provider: Provider
    connection_info: dict[str, Any]
    instance: str
    truth: dict[str, bytearray]
    write: Callable[[str, int, int, int], None] | None = None
    change_log: frozenset[str] = frozenset()
    live: bool = False
    surroundings: Surroundings = NOTHING
    size: int = SIZE


@dataclass
class Destination:
    """A place to write to. ``foreign_volume``/``foreign_instance`` make one that is not ours, by name.

    ``has_terabytes``: the laboratory's storage takes a sparse volume of 2 TiB.
    """

    provider: Provider
    connection_info: dict[str, Any]
    environment: dict[str, Any]
    foreign_volume: Callable[[str], None]
    foreign_instance: Callable[[str], None]
    network_map: dict[str, str] = field(default_factory=dict)
    is_running: Callable[[str], Awaitable[bool]] | None = None
    surroundings: Surroundings = NOTHING
    made_at_start: bool = False
    """The cloud runs what it makes: before the start nothing but its parts stands."""
    size_unit: int = 1
    """Bytes: sizes of the machine's disks are multiples of it."""
    has_terabytes: bool = True
