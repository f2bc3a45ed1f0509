"""Volumes made of volume snapshots, so that an agent can attach and read them. Named after the snapshot they copy."""

from __future__ import annotations

from collections.abc import Iterable

from coriolis.errors import CoriolisError, Unavailable
from coriolis.providers.openstack.attachment import Attacher
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.machine_spec import GIB, Document
from coriolis.providers.openstack.rest import ask, ask_or_none, listed, make_once, remove
from coriolis.providers.openstack.server_snapshots import ORIGIN, Part
from coriolis.providers.openstack.session import Cloud, Session

COPIED = "coriolis_snapshot"
"""Metadata of a copy: the volume snapshot that it was made of."""
MADE_TIMEOUT_S = 4 * 3600.0
"""Drivers that cannot clone copy every byte."""
GONE_TIMEOUT_S = 1800.0
NO_ATTACHMENTS = frozenset({"available", "error", "error_deleting", "deleting"})


def copies_of(cloud: Cloud, server_id: str, name: str) -> list[Document]:
    """The oldest first. Blocking."""
    found = listed(cloud, "block_storage", "/volumes/detail", "volumes", {"name": name})
    ours = [one for one in found if (one.get("metadata") or {}).get(ORIGIN) == server_id]
    return sorted(ours, key=lambda one: (str(one.get("created_at")), str(one["id"])))


def names_of_copies(volumes: Iterable[Document], server_id: str) -> set[str]:
    """Of the snapshots that these are copies of."""
    return {
        str(one.get("name"))
        for one in volumes
        if (one.get("metadata") or {}).get(ORIGIN) == server_id and COPIED in (one.get("metadata") or {})
    }


async def begin_copy(session: Session, server_id: str, name: str, part: Part) -> str:
    """Id of the copy, which may not be finished. Raises QuotaExceeded."""
    metadata = {ORIGIN: server_id, COPIED: part.id}
    body = {"volume": {"name": name, "snapshot_id": part.id, "size": part.size_bytes // GIB, "metadata": metadata}}

    def look(cloud: Cloud) -> str | None:
        found = copies_of(cloud, server_id, name)
        return next((str(one["id"]) for one in found if one["metadata"].get(COPIED) == part.id), None)

    return await make_once(
        session, look, lambda cloud: str(ask(cloud, "block_storage", "POST", "/volumes", body)["volume"]["id"])
    )


async def finished_copy(session: Session, server_id: str, name: str, part: Part) -> str:
    """Id of the copy, ready to be attached. Raises Unavailable when Cinder could not make it (it is removed)."""
    volume_id = await begin_copy(session, server_id, name, part)

    def ready(cloud: Cloud) -> str | None:
        found = ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}")
        status = "gone" if found is None else str(found["volume"]["status"])
        return None if status in ("creating", "downloading") else status

    status = await session.until(ready, MADE_TIMEOUT_S, f"a volume of snapshot {part.id}")
    if status in ("error", "gone"):
        if status == "error":
            await _delete(session, volume_id)
        raise Unavailable(f"Cinder could not make a volume of snapshot {part.id} ({printable(status, 40)})")
    return volume_id


async def remove_copies(session: Session, attacher: Attacher | None, server_id: str, name: str) -> None:
    """Detach and delete all of that snapshot's. Success when there are none."""

    def settled(cloud: Cloud) -> list[Document] | None:
        found = copies_of(cloud, server_id, name)
        return None if any(one["status"] in ("creating", "downloading") for one in found) else found

    for one in await session.until(settled, MADE_TIMEOUT_S, f"the end of volumes of snapshot {name}"):
        volume_id = str(one["id"])
        if attacher is not None and one["status"] not in NO_ATTACHMENTS:
            await attacher.release(volume_id)
        elif one["status"] not in NO_ATTACHMENTS:
            await _forget_attachments(session, volume_id)
        await _delete(session, volume_id)


async def _forget_attachments(session: Session, volume_id: str) -> None:
    """For an agent that attaches nothing: another one did, and is gone. The volume is a copy of ours."""
    params = {"volume_id": volume_id}
    found = await session.read(
        lambda cloud: ask(cloud, "block_storage", "GET", "/attachments/detail", params=params)["attachments"]
    )
    for one in found:
        await remove(session, "block_storage", f"/attachments/{one['id']}")


async def _delete(session: Session, volume_id: str) -> None:
    path = f"/volumes/{volume_id}"
    found = await session.read(lambda cloud: ask_or_none(cloud, "block_storage", path))
    if found is None:
        return
    if found["volume"]["status"] != "deleting":
        await remove(session, "block_storage", path)

    def gone(cloud: Cloud) -> bool | None:
        left = ask_or_none(cloud, "block_storage", path)
        if left is not None and left["volume"]["status"] == "error_deleting":
            raise CoriolisError(f"Cinder could not delete volume {volume_id}: see Cinder's log")
        return True if left is None else None

    await session.until(gone, GONE_TIMEOUT_S, f"the end of volume {volume_id}")
