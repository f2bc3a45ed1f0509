"""What stands in the way of reading a server, or costs something: decided from its documents alone. Pure.

Sources: Compute API guide, "Server concepts" (states); Nova, "Launch an instance" (ephemeral, swap disks are files of
the host); Block Storage API v3 (volume states, multiattach, encryption, limits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import msgspec

from coriolis.model.finding import Finding, Severity
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.machine_spec import (
    ROOT_DISK,
    Document,
    Surrounding,
    image_of,
    ordered_volumes,
    root_size,
    volumes_of,
)

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
READABLE = frozenset({"ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "PASSWORD"})
SHELVED = frozenset({"SHELVED", "SHELVED_OFFLOADED"})
WHOLE_VOLUMES = frozenset({"in-use", "available"})


class Quota(msgspec.Struct, frozen=True):
    """What the project may still make; None: without limit."""

    snapshots: int | None = None
    volumes: int | None = None
    gigabytes: int | None = None


def quota_of(limits: Mapping[str, Any]) -> Quota:
    """``limits``: Cinder's ``absolute``."""

    def left(total: str, used: str) -> int | None:
        most = int(limits.get(total, -1))
        return max(0, most - int(limits.get(used, 0))) if most >= 0 else None

    return Quota(
        snapshots=left("maxTotalSnapshots", "totalSnapshotsUsed"),
        volumes=left("maxTotalVolumes", "totalVolumesUsed"),
        gigabytes=left("maxTotalVolumeGigabytes", "totalGigabytesUsed"),
    )


def findings(
    server: Document, around: Surrounding, quota: Quota, ceph: Mapping[str, str] | None = None
) -> list[Finding]:
    """The worst first. ``ceph``: by volume, why Ceph does not serve it here, "" where it does; None: nobody asked."""
    direct = {volume for volume, why in (ceph or {}).items() if not why}
    volumes = ordered_volumes(server, around.volumes)
    found = [
        *_of_state(server),
        *_of_flavor(server),
        *_of_root(server, around),
        *(one for volume in volumes for one in _of_volume(volume)),
        *_of_lost_volumes(server, around),
        *_of_quota(volumes, quota, direct),
        *_of_ceph(ceph or {}),
        *_of_reading(server, volumes, direct),
    ]
    order = {ERROR: 0, WARNING: 1, INFO: 2}
    return sorted(found, key=lambda one: order[one.severity])


def _of_state(server: Document) -> Iterator[Finding]:
    status, task = str(server.get("status")), server.get("OS-EXT-STS:task_state")
    if status in SHELVED:
        yield Finding("shelved", ERROR, "the server is shelved", "unshelve it; it may be shut down afterwards")
    elif status == "ERROR":
        fault = printable((server.get("fault") or {}).get("message") or "Nova says no more", 200)
        yield Finding("server_in_error", ERROR, f"the server is in error: {fault}", "mend it, or reset its state")
    elif status not in READABLE:
        yield Finding(
            "server_is_changing",
            ERROR,
            f"the server's state is {printable(status, 40)}",
            "wait until it is ACTIVE or SHUTOFF; a resize must be confirmed, a rescue ended",
        )
    if task and status in READABLE:
        yield Finding(
            "server_is_busy", WARNING, f"Nova is at work on it ({printable(task, 40)})", "snapshots wait for it"
        )
    if server.get("locked"):
        yield Finding(
            "server_is_locked",
            WARNING,
            "the server is locked",
            "unlock it, or it cannot be shut down for the last pass",
        )


def _of_flavor(server: Document) -> Iterator[Finding]:
    flavor = server.get("flavor") or {}
    ephemeral, swap = int(flavor.get("ephemeral") or 0), int(flavor.get("swap") or 0)
    if ephemeral:
        yield Finding(
            "ephemeral_disk",
            WARNING,
            f"its ephemeral disk of {ephemeral} GiB is in no snapshot and stays behind",
            "copy what is needed from it to a volume",
        )
    if swap:
        yield Finding(
            "swap_disk",
            WARNING,
            f"its swap disk of {swap} MiB stays behind",
            "take it out of /etc/fstab, or make another",
        )


def _of_root(server: Document, around: Surrounding) -> Iterator[Finding]:
    image = image_of(server)
    if not image:
        return
    if image not in around.images:
        yield Finding(
            "image_gone",
            WARNING,
            "the image that it was booted from is gone, and with it what it said of firmware and buses",
            "check the firmware and buses of the machine that is made",
            ROOT_DISK,
        )
    if not root_size(server, around.images):
        yield Finding(
            "root_size_unknown", WARNING, "neither flavor nor image say its size", "the first snapshot will", ROOT_DISK
        )
    yield Finding(
        "read_as_image",
        INFO,
        "it is read through an image that Nova makes of it at each pass",
        "Glance needs room for it; the account needs the right to create images of servers",
        ROOT_DISK,
    )


def _of_volume(volume: Document) -> Iterator[Finding]:
    key = str(volume["id"])
    status = str(volume.get("status"))
    if status not in WHOLE_VOLUMES:
        yield Finding(
            "volume_not_ready", ERROR, f"its state is {printable(status, 40)}", "have it mended, or wait for it", key
        )
    if volume.get("encrypted"):
        yield Finding(
            "encrypted_volume",
            ERROR,
            "Cinder encrypts it, and its key stays in the cloud",
            "retype it to a volume type without encryption (or copy its data within the guest)",
            key,
        )
    servers = {one.get("server_id") for one in volume.get("attachments") or []} - {None}
    if len(servers) > 1:
        yield Finding(
            "shared_volume",
            ERROR,
            f"{len(servers)} servers have it attached: a snapshot is of no one moment of a cluster",
            "migrate the cluster's data with its own means, or detach it from the others",
            key,
        )
    elif volume.get("multiattach"):
        yield Finding(
            "multiattach_volume", WARNING, "others could attach it too", "its copy will not be for several servers", key
        )


def _of_lost_volumes(server: Document, around: Surrounding) -> Iterator[Finding]:
    for one in volumes_of(server):
        if one not in around.volumes:
            yield Finding(
                "volume_unseen",
                ERROR,
                "Cinder does not show this account a volume that the server has",
                "give the account access to it, or detach it",
                one,
            )


def _of_quota(volumes: list[Document], quota: Quota, direct: Set[str]) -> Iterator[Finding]:
    """A pass makes a snapshot of each volume and a volume of each snapshot; both count against the gigabytes. Instead
    of the second volume, one that is read from Ceph has its former snapshot."""
    needs = (
        ("snapshots", quota.snapshots, len(volumes) + len(direct)),
        ("volumes", quota.volumes, len(volumes) - len(direct)),
        ("gigabytes", quota.gigabytes, 2 * sum(int(volume["size"]) for volume in volumes)),
    )
    for what, left, need in needs:
        if left is not None and left < need:
            yield Finding(
                f"quota_of_{what}",
                ERROR,
                f"a pass needs {need} {what} of Cinder's quota for a while, {left} are left",
                "raise the project's quota, or free some of it",
            )


def _of_ceph(obstacles: Mapping[str, str]) -> Iterator[Finding]:
    for volume, why in obstacles.items():
        if why:
            yield Finding(
                "not_read_from_ceph",
                WARNING,
                f"it is read through a copy of its snapshot, for Ceph does not serve it here: {why}",
                "mend that, or leave it: passes after the first read everything then",
                volume,
            )
        else:
            yield Finding(
                "read_from_ceph",
                INFO,
                "its snapshots are read in Ceph, later ones only where they differ",
                "",
                volume,
            )


def _of_reading(server: Document, volumes: list[Document], direct: Set[str]) -> Iterator[Finding]:
    if volumes and image_of(server) and server.get("status") == "ACTIVE":
        yield Finding(
            "not_of_one_moment",
            WARNING,
            "root disk and volumes are frozen one after the other while it runs",
            "the last pass, after the shutdown, is of one moment",
        )
    if image_of(server) or {str(volume["id"]) for volume in volumes} - direct:
        yield Finding(
            "no_change_log",
            INFO,
            "OpenStack tells no tenant what changed: each pass reads everything and sends what differs",
            "for volumes in Ceph: give connection_info.ceph",
        )
