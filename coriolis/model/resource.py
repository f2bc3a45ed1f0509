"""Resources made in clouds, as the ledger and the providers see them."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from coriolis.model.machine import MachineSpec


class ResourceKind(enum.StrEnum):
    VOLUME = "volume"
    VOLUME_SNAPSHOT = "volume_snapshot"
    SNAPSHOT = "snapshot"
    INSTANCE = "instance"


POWER_KIND = "power"
"""Ledger entries of this kind record that the origin machine was stopped by us."""


class Tag(msgspec.Struct, frozen=True):
    """Marks a resource as ours: written as ``coriolis:<job>:<role>`` where a cloud keeps text, found by job."""

    job_id: str
    role: str

    def __str__(self) -> str:
        return f"coriolis:{self.job_id}:{self.role}"

    @staticmethod
    def parse(text: str) -> Tag | None:
        """The tag that ``text`` states, or None."""
        parts = text.split(":", 2)
        if len(parts) != 3 or parts[0] != "coriolis" or not parts[1]:
            return None
        return Tag(parts[1], parts[2])


class Volume(msgspec.Struct, frozen=True):
    """A volume at a destination. ``fresh_is_zero``: never-written ranges read as zero."""

    id: str
    name: str
    size_bytes: int
    fresh_is_zero: bool = True
    attributes: dict[str, str] = {}


class VolumeRequest(msgspec.Struct, frozen=True):
    """``name`` makes creation idempotent; ``storage`` is a storage backend id of the destination or empty."""

    name: str
    size_bytes: int
    tag: Tag
    storage: str = ""
    environment: dict[str, Any] = {}


class InstanceRequest(msgspec.Struct, frozen=True):
    """A VM to make, stopped. ``instance_id`` is a derived UUID; ``volumes`` in boot order, one per disk of the spec.

    ``network_map`` maps each origin network name to a destination network name or id.
    """

    name: str
    instance_id: str
    tag: Tag
    spec: MachineSpec
    volumes: tuple[Volume, ...]
    network_map: dict[str, str] = {}
    environment: dict[str, Any] = {}


class Instance(msgspec.Struct, frozen=True):
    """``unneeded_volumes``: ids of volumes whose content the machine has elsewhere: staged, or copied into an image."""

    id: str
    name: str
    running: bool
    unneeded_volumes: tuple[str, ...] = ()


class BootProof(msgspec.Struct, frozen=True):
    """``shown_by``: ``login prompt`` or ``guest agent``. ``screen``: the console's last lines, printable only."""

    shown_by: str
    seconds: float
    screen: str


class TaggedResource(msgspec.Struct, frozen=True):
    """What ``find_tagged`` reports."""

    kind: ResourceKind
    id: str
    name: str
    tag: Tag
