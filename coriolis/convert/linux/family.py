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

    ``best_effort``: versions of theirs below which conversion is tried and not promised. ``long_term``: a pattern that
    the supported versions of a distribution match whole, where not all are.
    ``package_names``: what the family calls a package of ``platforms.TargetPlatform.agents``, where it differs; by
    distribution, or ``*`` for all of them.
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
    best_effort: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    long_term: Mapping[str, str] = field(default_factory=dict)
    package_names: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def packages_of(self, name: str, distribution: str) -> tuple[str, ...]:
        """What this distribution calls the package that a platform lists as ``name``."""
        for key in (distribution, "*"):
            if name in self.package_names.get(key, {}):
                return self.package_names[key][name]
        return (name,)


def version_numbers(text: str) -> tuple[int, ...]:
    """``(8, 10)`` of ``8.10``; empty when it does not begin with a number."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part[:9]) for part in match[0].split(".")) if match else ()
