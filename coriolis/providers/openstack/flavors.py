"""Which flavor a machine gets: the named one, or the smallest that holds it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coriolis.convert.text import shown
from coriolis.errors import Conflict, InvalidInput

MAX_LISTED = 12


class Flavor(msgspec.Struct, frozen=True):
    """``disk_gb``: what a server that boots from an image gets; 0: none may."""

    id: str
    name: str
    vcpus: int
    ram_mb: int
    disk_gb: int = 0
    usable: bool = True


def parse(document: Mapping[str, Any]) -> Flavor:
    """A flavor of Nova's list."""
    return Flavor(
        id=str(document["id"]),
        name=str(document["name"]),
        vcpus=int(document["vcpus"]),
        ram_mb=int(document["ram"]),
        disk_gb=int(document.get("disk") or 0),
        usable=not document.get("OS-FLV-DISABLED:disabled", False),
    )


def choose(flavors: Sequence[Flavor], wanted: str, vcpus: int, ram_mb: int, image_gb: int = 0) -> Flavor:
    """``wanted``: name or id, or "" for the best fit. ``image_gb``: size of the image to boot from, 0 for a volume.

    A named flavor is taken although it is smaller than the origin: whoever names it means it. Raises InvalidInput,
    Conflict.
    """
    if wanted:
        found = [one for one in flavors if one.id == wanted] or [one for one in flavors if one.name == wanted]
        if len(found) > 1:
            raise Conflict(f"flavor_name: {len(found)} flavors are called {shown(wanted)}; give the id")
        if not found:
            raise InvalidInput(f"flavor_name: there is no flavor {shown(wanted)}; known: {_listed(flavors)}")
        if _too_small(found[0], image_gb):
            raise InvalidInput(
                f"flavor_name: {shown(wanted)} has a disk of {found[0].disk_gb} GiB, the image needs {image_gb}:"
                " choose a larger flavor, or boot_from volume"
            )
        return found[0]
    fit = [
        one
        for one in flavors
        if one.usable and one.vcpus >= vcpus and one.ram_mb >= ram_mb and not _too_small(one, image_gb)
    ]
    if not fit:
        disk = f" and {image_gb} GiB of disk" if image_gb else ""
        raise InvalidInput(
            f"no flavor has {vcpus} CPUs, {ram_mb} MiB of memory{disk}; known: {_listed(flavors)}: name one in"
            " flavor_name or have one made"
        )
    return min(fit, key=lambda one: (one.ram_mb, one.vcpus, one.disk_gb, one.name))


def _too_small(flavor: Flavor, image_gb: int) -> bool:
    # By Nova's policy a flavor without a disk is for servers that boot from volumes only.
    return bool(image_gb) and flavor.disk_gb < image_gb


def _listed(flavors: Sequence[Flavor]) -> str:
    some = [f"{shown(one.name)} ({one.vcpus} CPUs, {one.ram_mb} MiB)" for one in flavors[:MAX_LISTED]]
    more = f" and {len(flavors) - MAX_LISTED} more" if len(flavors) > MAX_LISTED else ""
    return (", ".join(some) or "none") + more
