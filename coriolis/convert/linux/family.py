"""What differs between families of Linux distributions, as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PackageTool = Literal["dpkg", "rpm", ""]


@dataclass(frozen=True, slots=True)
class LinuxFamily:
    """``oldest``: the supported distributions by os-release ID, each with its oldest supported version, as numbers.

    ``likes``: words of ID_LIKE by which an unlisted derivative is recognised. ``rebuild``: the guest's own command that
    makes the initramfs of one kernel anew; ``{version}`` and ``{path}`` stand for the kernel and its initramfs.
    ``rebuild_loader``: commands of which the first that exists writes the boot loader's configuration anew.
    """

    name: str
    oldest: Mapping[str, tuple[int, ...]]
    likes: tuple[str, ...] = ()
    package_tool: PackageTool = ""
    rebuild: tuple[str, ...] = ()
    rebuild_loader: tuple[tuple[str, ...], ...] = field(default=())


def version_numbers(text: str) -> tuple[int, ...]:
    """``(8, 10)`` of ``8.10``; empty when it does not begin with a number."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part[:9]) for part in match[0].split(".")) if match else ()
