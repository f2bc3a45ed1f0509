"""Extents and snapshots: what a source knows of a disk at one moment."""

from __future__ import annotations

import enum

import msgspec


class ExtentKind(enum.StrEnum):
    DATA = "data"
    ZERO = "zero"  # allocated, reads as zero
    HOLE = "hole"  # not allocated, reads as zero


class Extent(msgspec.Struct, frozen=True, order=True):
    """A byte range of a disk. ``length`` > 0."""

    offset: int
    length: int
    kind: ExtentKind = ExtentKind.DATA

    @property
    def end(self) -> int:
        return self.offset + self.length


class SnapshotDisk(msgspec.Struct, frozen=True):
    disk_id: str
    size_bytes: int


class Snapshot(msgspec.Struct, frozen=True):
    """One immutable moment of all disks of an instance.

    ``name`` is given by the caller and makes creation idempotent. ``identity`` changes whenever the content might:
    a resumed transfer trusts what it already sent only for an equal identity. ``change_base`` is set when later
    snapshots can be compared with this one by the origin's own change log.
    """

    name: str
    instance_id: str
    identity: str
    disks: tuple[SnapshotDisk, ...]
    change_base: bool = False
