"""Snapshots of a server: of its volumes by Cinder, of a local root disk as an image by Nova. Found by name alone.

A server that boots from a volume is frozen by Nova's ``createImage``: it makes the snapshots of all volumes in one go,
with the guest's file systems quiesced when its agent is there (``hw_qemu_guest_agent``), and an image without content
whose ``block_device_mapping`` lists them (Nova, "Create image from server"; seen with Zed). Else each volume gets a
snapshot, and the local root disk an image with its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from coriolis.errors import InvalidInput, Unavailable
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.machine_spec import GIB, ROOT_DISK, Document

PREFIX = "coriolis-"
NOVAS_NAME = "snapshot for "
"""Nova calls volume snapshots that it makes for an image so, followed by the image's name."""
ORIGIN = "coriolis_origin"
"""Image property or metadata of snapshots and copies: the server that they are of."""
COUNT = "coriolis_disks"
"""How many disks the whole has: what holds fewer was interrupted."""
IMAGE_WORKS = frozenset({"queued", "saving", "uploading", "importing"})
SNAPSHOT_WORKS = frozenset({"creating"})
MAX_PARTS = 256
MAX_NAME_CHARS = 63
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def check_name(name: str) -> None:
    """Our prefix lets us find snapshots again; whoever cleans up removes nothing else. Raises InvalidInput."""
    if not name.startswith(PREFIX) or len(name) > MAX_NAME_CHARS or not set(name) <= _ALLOWED:
        raise InvalidInput(f"snapshot name {name[:80]!r} must start with {PREFIX} and have at most 63 plain characters")


class Part(msgspec.Struct, frozen=True):
    """One disk, frozen. ``image``: at Glance, and ``format``, ``stored_bytes`` say what it holds; else at Cinder."""

    disk_id: str
    id: str
    size_bytes: int
    image: bool = False
    format: str = "raw"
    stored_bytes: int = 0
    digest: str = ""
    """``sha512:…`` or ``md5:…`` of an image's content, as Glance states it; "" when it does not."""


class Frozen(msgspec.Struct, frozen=True):
    """``parts``: the root disk first."""

    parts: tuple[Part, ...]

    @property
    def identity(self) -> str:
        text = "\n".join(f"{part.disk_id} {part.id}" for part in sorted(self.parts, key=lambda one: one.disk_id))
        return "openstack:" + hashlib.sha256(text.encode()).hexdigest()

    def part(self, disk_id: str) -> Part | None:
        return next((part for part in self.parts if part.disk_id == disk_id), None)


class Standing(msgspec.Struct, frozen=True):
    """All that carries one name for one server: images and volume snapshots, the oldest first."""

    images: tuple[Document, ...] = ()
    snapshots: tuple[Document, ...] = ()

    @property
    def working(self) -> bool:
        """Nova or Cinder has not finished one of them."""
        return any(one["status"] in IMAGE_WORKS for one in self.images) or any(
            one["status"] in SNAPSHOT_WORKS for one in self.snapshots
        )


def standing(
    images: Iterable[Document], snapshots: Iterable[Document], server_id: str, name: str, volumes: Iterable[str]
) -> Standing:
    """What of these is the snapshot ``name`` of that server. ``volumes``: of the server, as far as it still exists."""
    ours = [one for one in images if one.get("name") == name and one.get(ORIGIN) == server_id]
    mapped = {identity for image in ours for identity in mapped_snapshots(image)}
    attached = set(volumes)
    found = [
        one
        for one in snapshots
        if one["id"] in mapped
        or (one.get("name") == name and (one.get("metadata") or {}).get(ORIGIN) == server_id)
        or (one.get("name") == NOVAS_NAME + name and one.get("volume_id") in attached)
    ]
    return Standing(tuple(sorted(ours, key=_age)), tuple(sorted(found, key=_age)))


def _age(thing: Document) -> tuple[str, str]:
    return (str(thing.get("created_at")), str(thing["id"]))


def mapped_snapshots(image: Document) -> list[str]:
    """Ids of the volume snapshots that an image of Nova stands for."""
    try:
        mapping = json.loads(image.get("block_device_mapping") or "[]")
        found = [str(one["snapshot_id"]) for one in mapping if one.get("snapshot_id")]
    except (ValueError, TypeError, AttributeError):
        return []
    return found[:MAX_PARTS]


def frozen_of(found: Standing) -> Frozen | None:
    """The snapshot, when it is whole; of several, the oldest."""
    available = {str(one["id"]): one for one in found.snapshots if one["status"] == "available"}
    for image in found.images:
        mapped = mapped_snapshots(image)
        if image["status"] == "active" and mapped and all(one in available for one in mapped):
            return Frozen(tuple(_of_volume(available[one]) for one in mapped))
    own = [one for one in available.values() if not str(one.get("name")).startswith(NOVAS_NAME)]
    volumes = {str(one["volume_id"]): _of_volume(one) for one in sorted(own, key=_age, reverse=True)}
    parts = tuple(volumes[one] for one in sorted(volumes))
    for image in found.images:
        local = image["status"] == "active" and not image.get("block_device_mapping")
        if local and _count(image) == len(parts) + 1:
            return Frozen((_of_image(image), *parts))
    if parts and not found.images and all(_count(one.get("metadata") or {}) == len(parts) for one in own):
        return Frozen(parts)
    return None


def volume_parts(found: Standing) -> tuple[Part, ...]:
    """All volume snapshots that can be read, of a whole or not; the oldest first."""
    return tuple(_of_volume(one) for one in found.snapshots if one["status"] == "available")


def _count(properties: Mapping[str, Any]) -> int:
    text = str(properties.get(COUNT, ""))
    return int(text) if text.isascii() and text.isdecimal() else 0


def _of_volume(snapshot: Document) -> Part:
    return Part(str(snapshot["volume_id"]), str(snapshot["id"]), int(snapshot["size"]) * GIB)


def _of_image(image: Document) -> Part:
    stored = int(image.get("size") or 0)
    kind = str(image.get("disk_format") or "")
    size = int(image.get("virtual_size") or 0) or (stored if kind == "raw" else 0)
    digest = ""
    if image.get("os_hash_algo") and image.get("os_hash_value"):
        digest = f"{image['os_hash_algo']}:{image['os_hash_value']}"
    elif image.get("checksum"):
        digest = f"md5:{image['checksum']}"
    return Part(ROOT_DISK, str(image["id"]), size, image=True, format=kind, stored_bytes=stored, digest=digest)


def check_made(found: Standing) -> None:
    """Raise Unavailable with what Cinder or Glance could not make."""
    for one in found.snapshots:
        if one["status"] != "available":
            raise Unavailable(
                f"Cinder's snapshot {one['id']} of volume {one.get('volume_id')} is {printable(one['status'], 40)}"
            )
    for one in found.images:
        if one["status"] != "active":
            raise Unavailable(f"image {one['id']} of the root disk is {printable(one['status'], 40)}")


def names_in(
    images: Iterable[Document], snapshots: Iterable[Document], server_id: str, volumes: Iterable[str]
) -> set[str]:
    """Names of all our snapshots of a server, whole or not."""
    attached = set(volumes)
    found = {str(one.get("name")) for one in images if one.get(ORIGIN) == server_id}
    for one in snapshots:
        name = str(one.get("name") or "")
        if (one.get("metadata") or {}).get(ORIGIN) == server_id or one.get("volume_id") in attached:
            found.add(name.removeprefix(NOVAS_NAME))
    return {name for name in found if name.startswith(PREFIX)}
