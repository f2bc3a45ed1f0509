"""Makes, finds and removes the snapshots of a server. What they are is decided in ``server_snapshots``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import structlog
from openstack import exceptions as sdk

from coriolis.errors import Conflict, CoriolisError, Denied, TimedOut, Unavailable
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.findings import READABLE
from coriolis.providers.openstack.inventory import server_by_id
from coriolis.providers.openstack.machine_spec import Document, image_of, volumes_of
from coriolis.providers.openstack.rest import ask, ask_or_none, listed, remove
from coriolis.providers.openstack.server_snapshots import (
    COUNT,
    NOVAS_NAME,
    ORIGIN,
    Frozen,
    Part,
    Standing,
    check_made,
    frozen_of,
    mapped_snapshots,
    names_in,
    standing,
    volume_parts,
)
from coriolis.providers.openstack.session import POLL_S, Cloud, Session
from coriolis.providers.openstack.snapshot_copies import names_of_copies

log = structlog.get_logger(__name__)

ATTEMPTS = 3
MADE_TIMEOUT_S = 4 * 3600.0
"""A root disk of some hundred GB takes hours to become an image."""
ASK_TIMEOUT_S = 600.0
"""``createImage`` answers when Nova has asked Cinder for all snapshots, with the guest quiesced meanwhile."""
BUSY_S = 300.0
GONE_TIMEOUT_S = 1800.0
"""Some drivers merge a snapshot back into its volume when it is deleted."""


def look(cloud: Cloud, server_id: str, name: str) -> Standing:
    """Blocking; the server may be gone."""
    found = ask_or_none(cloud, "compute", f"/servers/{server_id}")
    volumes = volumes_of(found["server"]) if found is not None else []
    images = listed(cloud, "image", "/images", "images", {"name": name, ORIGIN: server_id})
    snapshots = [
        one
        for wanted in (name, NOVAS_NAME + name)
        for one in listed(cloud, "block_storage", "/snapshots/detail", "snapshots", {"name": wanted})
    ]
    known = {str(one["id"]) for one in snapshots}
    for image in images:  # by its mapping, should Nova have called them otherwise
        snapshots += [one for one in _mapped(cloud, image) if str(one["id"]) not in known]
    return standing(images, snapshots, server_id, name, volumes)


def _mapped(cloud: Cloud, image: Document) -> list[Document]:
    found = (ask_or_none(cloud, "block_storage", f"/snapshots/{one}") for one in mapped_snapshots(image))
    return [one["snapshot"] for one in found if one is not None]


async def find(session: Session, server_id: str, name: str) -> Frozen | None:
    """What stands, when it is whole."""
    return frozen_of(await session.read(lambda cloud: look(cloud, server_id, name)))


async def find_volumes(session: Session, server_id: str, name: str) -> tuple[Part, ...]:
    """Snapshots of volumes that stand, of a whole or not; the oldest first. The server may be gone."""
    return volume_parts(await session.read(lambda cloud: look(cloud, server_id, name)))


async def freeze(session: Session, server_id: str, name: str, tell: Callable[..., None]) -> Frozen:
    """The snapshot ``name`` of the server, made unless it stands; what an interrupted attempt left is removed first.

    Raises NotFound, Conflict, QuotaExceeded, Denied, Unavailable, TimedOut.
    """
    for left in range(ATTEMPTS - 1, -1, -1):
        found = await _settled(session, server_id, name)
        frozen = frozen_of(found)
        if frozen is not None:
            return frozen
        if found.images or found.snapshots:
            await thaw(session, server_id, name)
        server = await session.read(lambda cloud: server_by_id(cloud, server_id))
        if str(server.get("status")) not in READABLE:
            raise Conflict(f"server {server_id} cannot be frozen: its state is {printable(server.get('status'), 40)}")
        try:
            await _begin(session, server, name, tell)
            made = await _settled(session, server_id, name)
            check_made(made)
        except (Unavailable, TimedOut) as lost:
            if not left:
                raise
            log.warning("a snapshot is made again", server=server_id, snapshot=name, error=lost.message)
    raise Unavailable(f"snapshot {name} of server {server_id} was made, yet not found whole")


async def _settled(session: Session, server_id: str, name: str) -> Standing:
    def settled(cloud: Cloud) -> Standing | None:
        found = look(cloud, server_id, name)
        return None if found.working else found

    return await session.until(settled, MADE_TIMEOUT_S, f"the end of snapshot {name} of server {server_id}")


async def _begin(session: Session, server: Document, name: str, tell: Callable[..., None]) -> None:
    volumes = volumes_of(server)
    marks = {ORIGIN: str(server["id"]), COUNT: str(len(volumes) + bool(image_of(server)))}
    if not image_of(server):
        try:
            await _create_image(session, server, name, marks)
        except Denied as refused:
            tell(f"Nova refuses to freeze all volumes at once ({refused.message}): they are one by one", "WARNING")
        else:
            return
    await asyncio.gather(*(_snapshot_volume(session, volume, name, marks) for volume in volumes))
    if image_of(server):
        await _create_image(session, server, name, marks)


async def _create_image(session: Session, server: Document, name: str, marks: dict[str, str]) -> None:
    path, body = f"/servers/{server['id']}/action", {"createImage": {"name": name, "metadata": marks}}

    def create(cloud: Cloud) -> bool:
        """False while Nova does something else with the server."""
        try:
            ask(cloud, "compute", "POST", path, body)
        except sdk.ConflictException:
            if server_by_id(cloud, str(server["id"])).get("OS-EXT-STS:task_state"):
                return False
            raise
        return True

    deadline = time.monotonic() + BUSY_S
    while not await session.change(create, ASK_TIMEOUT_S):
        if time.monotonic() >= deadline:
            raise TimedOut(f"Nova stays busy with server {server['id']}: no snapshot could be made")
        await asyncio.sleep(POLL_S)


async def _snapshot_volume(session: Session, volume_id: str, name: str, marks: dict[str, str]) -> None:
    # force: the volume is in use
    body = {"snapshot": {"volume_id": volume_id, "name": name, "force": True, "metadata": marks}}
    await session.change(lambda cloud: ask(cloud, "block_storage", "POST", "/snapshots", body))


async def thaw(session: Session, server_id: str, name: str, keep: Collection[str] = ()) -> None:
    """Remove images and volume snapshots of that name, whose copies must be gone. Success when there are none.

    ``keep``: ids of volume snapshots that stay, and with them the image without content that lists them.

    One after the other: where a driver merges a snapshot into the volume of a running server, QEMU 7.2 has been seen to
    crash, and the server with it, while it merged two volumes at once.
    """
    found = await session.read(lambda cloud: look(cloud, server_id, name))
    if any(one["status"] == "creating" for one in found.snapshots):
        found = await session.until(
            lambda cloud: _no_new_snapshots(cloud, server_id, name), GONE_TIMEOUT_S, f"the end of snapshot {name}"
        )
    for one in found.images:
        if not set(mapped_snapshots(one)) & set(keep):
            await remove(session, "image", f"/images/{one['id']}")
    for one in found.snapshots:
        if str(one["id"]) in keep:
            continue
        if one["status"] != "deleting":
            await remove(session, "block_storage", f"/snapshots/{one['id']}")
        await session.until(partial(_gone, one), GONE_TIMEOUT_S, f"the end of snapshot {one['id']}")


def _no_new_snapshots(cloud: Cloud, server_id: str, name: str) -> Standing | None:
    found = look(cloud, server_id, name)
    return None if any(one["status"] == "creating" for one in found.snapshots) else found


def _gone(snapshot: Document, cloud: Cloud) -> bool | None:
    found: Any = ask_or_none(cloud, "block_storage", f"/snapshots/{snapshot['id']}")
    if found is None:
        return True
    status = found["snapshot"]["status"]
    if status == "error_deleting":
        raise CoriolisError(
            f"Cinder could not delete snapshot {snapshot['id']} of volume {snapshot.get('volume_id')}: see Cinder's log"
        )
    return None


async def names(session: Session, server_id: str) -> set[str]:
    """Of all our snapshots of the server and of copies made of them. Raises NotFound."""

    def find_all(cloud: Cloud) -> set[str]:
        server = server_by_id(cloud, server_id)
        images = listed(cloud, "image", "/images", "images", {ORIGIN: server_id})
        snapshots = listed(cloud, "block_storage", "/snapshots/detail", "snapshots")
        copies = names_of_copies(listed(cloud, "block_storage", "/volumes/detail", "volumes"), server_id)
        return names_in(images, snapshots, server_id, volumes_of(server)) | copies

    return await session.read(find_all)
