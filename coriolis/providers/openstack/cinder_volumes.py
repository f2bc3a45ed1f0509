"""Cinder volumes for disks: made once, remade when Cinder fails, written where the agent runs, found by their marks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from coriolis.errors import Conflict, InvalidInput, NotFound, QuotaExceeded, TimedOut, Unavailable
from coriolis.ids import is_id
from coriolis.model.resource import ResourceKind, Tag, TaggedResource, Volume, VolumeRequest
from coriolis.providers.base import BlockWriter
from coriolis.providers.block.sidecar import check_name
from coriolis.providers.openstack import marks
from coriolis.providers.openstack.attachment import GIB, ZEROED_DRIVERS, Attacher, open_device
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.quotas import check_disk, volume_limits
from coriolis.providers.openstack.rest import ask, ask_or_none, listed, make_once, remove
from coriolis.providers.openstack.session import Cloud, Session
from coriolis.providers.openstack.window import window

MAKE_ATTEMPTS = 3
"""A volume that goes to ``error`` is deleted and made anew, this often in all."""
MAKE_TIMEOUT_S = 600.0
IMAGE_TIMEOUT_S = 6 * 3600.0
"""A volume that is copied from or to an image."""
_USABLE = ("available", "in-use", "reserved", "attaching", "detaching")
_BUSY = ("creating", "downloading", "uploading", "attaching", "detaching", "backing-up")
_GOING = ("deleting", "error_deleting")


class Found(msgspec.Struct, frozen=True):
    """A volume of ours as Cinder has it. ``server``: the id of a server that has it, or ""."""

    id: str
    name: str
    status: str
    gigabytes: int
    created_at: str
    volume_type: str
    metadata: dict[str, str]
    server: str = ""

    @property
    def size_bytes(self) -> int:
        """Of the disk."""
        return int(self.metadata[marks.SIZE])


def gigabytes(size: int) -> int:
    """GiB that hold ``size`` bytes; Cinder's smallest volume has one."""
    return max(1, -(-size // GIB))


def parse(document: Mapping[str, Any]) -> Found | None:
    """A volume of ours, or None for somebody else's."""
    metadata = {str(key): str(value) for key, value in (document.get("metadata") or {}).items()}
    if marks.tag_of(metadata) is None or not metadata.get(marks.SIZE, "").isdecimal():
        return None
    servers = [str(one["server_id"]) for one in document.get("attachments") or () if one.get("server_id")]
    return Found(
        id=str(document["id"]),
        name=str(document.get("name") or ""),
        status=str(document["status"]),
        gigabytes=int(document["size"]),
        created_at=str(document.get("created_at") or ""),
        volume_type=str(document.get("volume_type") or ""),
        metadata=metadata,
        server=servers[0] if servers else "",
    )


def pick(name: str, tag: Tag, documents: list[Mapping[str, Any]]) -> tuple[Found | None, list[Found]]:
    """(the volume of that name, its duplicates): names are not unique in Cinder, so two agents that made one each
    agree on the older. Raises Conflict for somebody else's volume of that name."""
    mine = []
    for document in documents:
        if document["status"] in _GOING:
            continue
        found = parse(document)
        if found is None or found.metadata[marks.TAG] != str(tag):
            raise Conflict(f"volume {name} ({document['id']}) exists but is not ours: rename or delete it")
        mine.append(found)
    mine.sort(key=lambda one: (one.created_at, one.id))
    return (mine[0], mine[1:]) if mine else (None, [])


def named(cloud: Cloud, name: str) -> list[Mapping[str, Any]]:
    """Volumes of that name. Blocking."""
    return [
        one
        for one in listed(cloud, "block_storage", "/volumes/detail", "volumes", {"name": name})
        if one["name"] == name
    ]


def marked(cloud: Cloud, key: str, value: str) -> list[Found]:
    """Volumes of ours with that metadata, those that go left out. Blocking."""
    rows = listed(cloud, "block_storage", "/volumes/detail", "volumes", {"metadata": repr({key: value})})
    found = (parse(one) for one in rows if one["status"] not in _GOING)
    return [one for one in found if one is not None and one.metadata.get(key) == value]


def volume_of(found: Found) -> Volume:
    """What ``create_volume`` answers: the same at every repeat."""
    driver = found.metadata.get(marks.DRIVER, "")
    attributes = {"format": found.metadata.get(marks.FORMAT, ""), "driver": driver, "volume_type": found.volume_type}
    return Volume(found.id, found.name, found.size_bytes, driver in ZEROED_DRIVERS, attributes)


class CinderVolumes:
    """Meets ``VolumeTarget``. Volume ids are Cinder's."""

    def __init__(self, session: Session, attacher: Attacher | None, tell: Callable[..., None]) -> None:
        self._session, self._attacher, self._tell = session, attacher, tell

    def _attach(self) -> Attacher:
        if self._attacher is None:
            raise InvalidInput(
                "this agent cannot attach Cinder volumes: set cinder_drivers in its configuration, run it in a server"
                " of the project, or set data_path to upload"
            )
        return self._attacher

    async def create_volume(self, request: VolumeRequest) -> Volume:
        """It is attached once when it is new, so that a path that does not work fails before a byte has moved."""
        attacher = self._attach()
        for left in range(MAKE_ATTEMPTS - 1, -1, -1):
            found = await self.make(request)
            if marks.FORMAT in found.metadata:
                break
            try:
                async with attacher.attached(found.id) as device, open_device(device) as disk:
                    window(disk, found.size_bytes)
                found = await self.note(found, {marks.DRIVER: device.driver, marks.FORMAT: device.format})
                break
            except (Conflict, NotFound, InvalidInput):  # another agent tries it, or removed it as a duplicate
                if not left:
                    raise
                await asyncio.sleep(random.uniform(0.5, 3.0))
        return volume_of(found)

    async def make(self, request: VolumeRequest, image: str = "", extra: Mapping[str, str] | None = None) -> Found:
        """The volume, usable. ``image``: what its content is copied from. ``extra``: metadata besides the marks."""
        name = check_name(request.name, "volume name")
        if request.size_bytes < 0:
            raise InvalidInput(f"a volume cannot have {request.size_bytes} bytes")
        wanted_type = request.storage or request.environment.get("volume_type", "")
        body: dict[str, Any] = {
            "name": name,
            "size": gigabytes(request.size_bytes),
            "metadata": {**marks.of_volume(request.tag, request.size_bytes), **(extra or {})},
        }
        for key, value in (
            ("volume_type", wanted_type),
            ("availability_zone", request.environment.get("volume_availability_zone", "")),
            ("imageRef", image),
        ):
            if value:
                body[key] = value
        for left in range(MAKE_ATTEMPTS - 1, -1, -1):
            made = await self._made(request, body)
            limit = IMAGE_TIMEOUT_S if image else MAKE_TIMEOUT_S
            ended = await self._session.until(partial(_ended, volume_id=made.id), limit, f"volume {name}")
            if ended.status in _USABLE:
                if await self._remove_duplicates(request, ended):
                    return ended
                continue  # an older one stands: that of an agent that was killed, carried out meanwhile
            why = await self._why(made.id)
            await self._discard(made.id)
            if not left:
                raise _failed(name, body["size"], why)
            self._tell(f"Cinder could not make volume {name} ({why}): it is made anew", "WARNING")
        raise Conflict(f"volume {name}: other agents make and remove it at the same time")

    async def _made(self, request: VolumeRequest, body: dict[str, Any]) -> Found:
        def look(cloud: Cloud) -> Found | None:
            found, _ = pick(request.name, request.tag, named(cloud, request.name))
            if found is not None and found.size_bytes != request.size_bytes:
                raise Conflict(
                    f"volume {request.name} exists for a disk of {found.size_bytes} bytes, but one of"
                    f" {request.size_bytes} was asked for: delete it first"
                )
            if found is None:
                check_disk(volume_limits(cloud), body["size"], request.size_bytes)
            return found

        def make(cloud: Cloud) -> Found:
            found = parse(ask(cloud, "block_storage", "POST", "/volumes", {"volume": body})["volume"])
            assert found is not None  # it carries our marks
            return found

        return await make_once(self._session, look, make)

    async def _remove_duplicates(self, request: VolumeRequest, mine: Found) -> bool:
        """Whether ``mine`` is the one that stays."""
        kept, others = await self._session.read(
            lambda cloud: pick(request.name, request.tag, named(cloud, request.name))
        )
        for other in others:
            await self._discard(other.id)
        return kept is not None and kept.id == mine.id

    async def keep_only(self, used: Found) -> None:
        """Remove volumes of the same name and tag: a cloud may carry out what a killed agent asked for seconds after
        its successor looked for it."""

        def look(cloud: Cloud) -> list[Found]:
            found = (parse(one) for one in named(cloud, used.name) if one["status"] not in _GOING)
            return [one for one in found if one is not None and one.metadata[marks.TAG] == used.metadata[marks.TAG]]

        for other in await self._session.read(look):
            if other.id != used.id:
                await self.delete_volume(other.id)

    async def _why(self, volume_id: str) -> str:
        """What Cinder tells users of it; "" when it says nothing."""
        query = {"resource_uuid": volume_id}
        try:
            said = await self._session.read(
                lambda cloud: ask(cloud, "block_storage", "GET", "/messages", params=query)["messages"]
            )
        except (NotFound, Unavailable, TimedOut, InvalidInput):
            return ""
        return printable("; ".join(str(one.get("user_message", "")) for one in said[:3]), 300)

    async def note(self, found: Found, metadata: Mapping[str, str]) -> Found:
        """The volume with ``metadata`` added, at Cinder too."""
        path = f"/volumes/{found.id}/metadata"
        await make_once(
            self._session,
            lambda cloud: None,
            lambda cloud: ask(cloud, "block_storage", "POST", path, {"metadata": dict(metadata)}),
        )
        return msgspec.structs.replace(found, metadata={**found.metadata, **metadata})

    async def forget(self, found: Found, keys: list[str]) -> None:
        """Remove metadata."""
        for key in keys:
            await remove(self._session, "block_storage", f"/volumes/{found.id}/metadata/{key}")

    async def require(self, volume_id: str) -> Found:
        """A volume of ours that exists. Raises NotFound, Conflict."""
        document = await self._session.read(lambda cloud: ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}"))
        if document is None or document["volume"]["status"] in _GOING:
            raise NotFound(f"there is no volume {volume_id} at {self._session.where}")
        found = parse(document["volume"])
        if found is None:
            raise Conflict(f"volume {volume_id} was not made by Coriolis: it is left alone")
        return found

    async def delete_volume(self, volume_id: str) -> None:
        """Detached first where a killed agent left it attached. Raises Conflict when a server has it."""
        try:
            found = await self.require(volume_id)
        except NotFound:
            return
        await self.free(found)
        await self._discard(volume_id)

    async def free(self, found: Found) -> None:
        """Detached where a killed agent left it attached. Raises Conflict when a server has it.

        Attached through Nova, it has a server too: the agent's. Only the attacher tells that one from others.
        """
        if self._attacher is not None:
            await self._attacher.release(found.id)
        elif found.server:
            raise Conflict(f"volume {found.name} is attached to server {printable(found.server, 40)}: detach it first")
        else:
            await self._release_plain(found.id)

    async def _discard(self, volume_id: str) -> None:
        """Cinder refuses to delete what it still makes or copies, as after a killed agent: wait for that."""

        def rests(cloud: Cloud) -> bool | None:
            found = ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}")
            return True if found is None or found["volume"]["status"] not in _BUSY else None

        await self._session.until(rests, IMAGE_TIMEOUT_S, f"volume {volume_id} at rest")
        await remove(self._session, "block_storage", f"/volumes/{volume_id}", "=", MAKE_TIMEOUT_S)

    async def _release_plain(self, volume_id: str) -> None:
        """End attachments without a server on an agent that attaches nothing itself."""
        query = {"volume_id": volume_id}
        left = await self._session.read(
            lambda cloud: ask(cloud, "block_storage", "GET", "/attachments", params=query)["attachments"]
        )
        for one in left:
            await remove(self._session, "block_storage", f"/attachments/{one['id']}")

    @asynccontextmanager
    async def open_writer(self, volume_id: str) -> AsyncIterator[BlockWriter]:
        if not is_id(volume_id):
            raise InvalidInput(f"{printable(volume_id, 100)} is no id of a Cinder volume")
        found = await self.require(volume_id)
        async with self._attach().attached(volume_id) as device:
            stated = found.metadata.get(marks.FORMAT, device.format)
            if stated != device.format:
                raise Conflict(f"volume {found.name} was {stated} when it was made and is {device.format} now")
            async with open_device(device) as disk:
                yield window(disk, found.size_bytes)

    async def find(self, job_id: str) -> list[TaggedResource]:
        """Volumes of the job's disks, also those in error."""
        found = await self._session.read(lambda cloud: marked(cloud, marks.JOB, job_id))
        return [
            TaggedResource(ResourceKind.VOLUME, one.id, one.name, Tag.parse(one.metadata[marks.TAG]) or Tag(job_id, ""))
            for one in found
            if marks.STAGED not in one.metadata
        ]


def _ended(cloud: Cloud, volume_id: str) -> Found | None:
    document = ask_or_none(cloud, "block_storage", f"/volumes/{volume_id}")
    if document is None:
        raise NotFound(f"volume {volume_id} is gone while it was made")
    found = parse(document["volume"])
    if found is None:
        raise Conflict(f"volume {volume_id} lost its marks while it was made")
    return found if found.status in _USABLE or found.status.startswith("error") else None


def _failed(name: str, size: int, why: str) -> QuotaExceeded | Unavailable:
    text = f"Cinder failed {MAKE_ATTEMPTS} times to make volume {name} of {size} GiB: {why or 'it does not say why'}"
    if "backend" in why.lower() or "space" in why.lower():
        return QuotaExceeded(f"{text}; no storage of that type has room: choose another volume type")
    return Unavailable(text)
