"""What a survey of one end of a migration tells, cut to what can be kept. Pure."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, StorageType
from coriolis.model.network_mapping import Takes

Kind = TypeVar("Kind", Network, SecurityGroup, StorageType)

MAX_BYTES = 100 << 10
"""Below what a task's result may have (``coriolis.coordinator.scheduler``)."""


class Surveyed(msgspec.Struct, frozen=True):
    """``detail``: ``names`` when the cloud tells no subnets of its networks. ``left_out``: how many things did not fit.
    ``takes`` is of a destination."""

    detail: Literal["full", "names"]
    networks: tuple[Network, ...] = ()
    security_groups: tuple[SecurityGroup, ...] = ()
    storage_types: tuple[StorageType, ...] = ()
    left_out: int = 0
    takes: Takes | None = None

    @property
    def configuration(self) -> CloudConfiguration:
        return CloudConfiguration(self.networks, self.security_groups, self.storage_types)


def surveyed(
    configuration: CloudConfiguration,
    detail: Literal["full", "names"],
    takes: Takes | None = None,
    max_bytes: int = MAX_BYTES,
) -> Surveyed:
    """Storage first, then networks, then security groups, each in its order, as far as ``max_bytes`` of JSON reach."""
    left = max_bytes - len(msgspec.json.encode(takes)) - len(msgspec.json.encode(Surveyed(detail)))
    storage, left, lost_storage = _fitting(configuration.storage_types, left)
    networks, left, lost_networks = _fitting(configuration.networks, left)
    groups, _, lost_groups = _fitting(configuration.security_groups, left)
    return Surveyed(detail, networks, groups, storage, lost_storage + lost_networks + lost_groups, takes)


def _fitting(things: tuple[Kind, ...], left: int) -> tuple[tuple[Kind, ...], int, int]:
    kept = []
    for thing in things:
        size = len(msgspec.json.encode(thing)) + 1
        if size <= left:
            kept.append(thing)
            left -= size
    return tuple(kept), left, len(things) - len(kept)
