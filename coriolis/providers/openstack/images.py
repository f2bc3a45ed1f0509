"""Glance images of our disks: uploaded from staged files, or made by Cinder of a volume. Found by their properties."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

from openstack import exceptions as sdk

from coriolis.errors import Corrupt, Unavailable
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.openstack import marks
from coriolis.providers.openstack.cinder_volumes import gigabytes
from coriolis.providers.openstack.cloud_errors import printable
from coriolis.providers.openstack.rest import ask, ask_or_none, listed, make_once, remove
from coriolis.providers.openstack.session import Cloud, Session

ATTEMPTS = 3
UPLOAD_TIMEOUT_S = 24 * 3600.0
IMPORT_TIMEOUT_S = 6 * 3600.0
DIRECT = "glance-direct"
MARK = "coriolis_mark"
"""Property by which an image is looked up: the machine's id and what the image is of."""


class _Hashing:
    """A file that is read once, front to back; what was read is hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.count = file, hashlib.sha512(), 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self.count += len(data)
        return data

    def fileno(self) -> int:
        """Its size is asked by this number."""
        return self._file.fileno()

    def __iter__(self) -> Any:
        while data := self.read(1 << 20):
            yield data


class Images:
    """Images that carry our properties."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def found(self, mark: str) -> dict[str, Any] | None:
        """The image of that mark."""
        return await self._session.read(lambda cloud: _one(cloud, mark))

    async def upload(self, mark: str, name: str, path: str, size: int, properties: Mapping[str, str]) -> str:
        """Id of an image with the bytes of a raw file; one that is whole already is taken as it is."""
        standing = await self.found(mark)
        if standing is not None and standing["status"] == "active" and standing.get("size") == size:
            return str(standing["id"])
        for left in range(ATTEMPTS - 1, -1, -1):
            if standing is not None:  # what an interrupted upload left cannot be continued
                await self.delete(str(standing["id"]))
            body = {
                "name": name,
                "disk_format": "raw",
                "container_format": "bare",
                "visibility": "private",
                "min_disk": gigabytes(size),
                MARK: mark,
                **properties,
            }
            made = await make_once(
                self._session,
                lambda cloud: _one(cloud, mark),
                partial(_create, body=body),
            )
            try:
                await self._fill(str(made["id"]), path, size)
                return str(made["id"])
            except (Unavailable, Corrupt):
                if not left:
                    await self.delete(str(made["id"]))
                    raise
            standing = made
        raise AssertionError("unreachable")

    async def _fill(self, image: str, path: str, size: int) -> None:
        methods = await self._session.read(_import_methods)
        target = f"/images/{image}/{'stage' if DIRECT in methods else 'file'}"
        digest = await self._session.change(lambda cloud: _send(cloud, target, path, size), UPLOAD_TIMEOUT_S)
        if DIRECT in methods:
            order = {"method": {"name": DIRECT}}
            await self._session.change(lambda cloud: ask(cloud, "image", "POST", f"/images/{image}/import", order))
        made = await self.until_active(image)
        if made.get("size") != size or (made.get("os_hash_algo") == "sha512" and made.get("os_hash_value") != digest):
            raise Corrupt(
                f"Glance has {made.get('size')} bytes of image {image}, with another digest than what was sent"
            )

    async def of_volume(self, mark: str, name: str, volume_id: str, owner: Mapping[str, str]) -> str:
        """Id of an image that Cinder makes of a volume, which must be free. ``owner``: by what a clean-up finds it."""
        order = {
            "image_name": name,
            "container_format": "bare",
            "disk_format": "raw",
            "force": False,
        }

        def make(cloud: Cloud) -> dict[str, Any]:
            path, body = f"/volumes/{volume_id}/action", {"os-volume_upload_image": order}
            said = ask(cloud, "block_storage", "POST", path, body)["os-volume_upload_image"]
            return {"id": said["image_id"], "status": "queued"}

        # the image takes the volume's image metadata as properties: it is ours from the moment at which it exists
        mine = {"os-set_image_metadata": {"metadata": {**owner, MARK: mark}}}
        await self._session.change(
            lambda cloud: ask(cloud, "block_storage", "POST", f"/volumes/{volume_id}/action", mine)
        )
        standing = await self.found(mark)
        if standing is not None and standing["status"] not in ("active", "saving", "queued"):
            await self.delete(str(standing["id"]))
        made = await make_once(self._session, lambda cloud: _one(cloud, mark), make)
        await self.until_active(str(made["id"]))
        return str(made["id"])

    async def until_active(self, image: str) -> dict[str, Any]:
        """The image when it can be used. Raises Unavailable when Glance failed."""

        def look(cloud: Cloud) -> dict[str, Any] | None:
            found = ask_or_none(cloud, "image", f"/images/{image}")
            failed = found is not None and found.get("os_glance_failed_import")
            if found is None or found["status"] in ("killed", "deleted") or failed:
                raise Corrupt(f"Glance could not take image {image}{_task_says(cloud, image)}")
            return dict(found) if found["status"] == "active" else None

        return await self._session.until(look, IMPORT_TIMEOUT_S, f"image {image} active")

    async def describe(self, image: str, properties: Mapping[str, str], **members: Any) -> None:
        """Set properties and members such as ``min_ram``."""
        wanted = {**properties, **members}

        def change(cloud: Cloud) -> None:
            patch = [{"op": "add", "path": f"/{key}", "value": value} for key, value in wanted.items()]
            answer = cloud.image.request(
                f"/images/{image}",
                "PATCH",
                json=patch,
                headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
            )
            sdk.raise_from_response(answer)

        await self._session.change(change)

    async def delete(self, image: str) -> None:
        """Success when it is absent."""
        await remove(self._session, "image", f"/images/{image}", "=")

    async def of_job(self, job_id: str) -> list[dict[str, Any]]:
        """Images with our properties of that job."""
        return await self._session.read(lambda cloud: by_property(cloud, marks.JOB, job_id))

    async def of_instance(self, instance_id: str) -> list[dict[str, Any]]:
        return await self._session.read(lambda cloud: by_property(cloud, marks.INSTANCE, instance_id))


def _create(cloud: Cloud, body: Mapping[str, Any]) -> dict[str, Any]:
    return dict(ask(cloud, "image", "POST", "/images", body))


def by_property(cloud: Cloud, key: str, value: str) -> list[dict[str, Any]]:
    """Images with that property. Blocking."""
    found = listed(cloud, "image", "/images", "images", {key: value, "visibility": "private"})
    return [dict(one) for one in found if one.get(key) == value]


def _one(cloud: Cloud, mark: str) -> dict[str, Any] | None:
    found = sorted(by_property(cloud, MARK, mark), key=lambda one: (one["created_at"], one["id"]))
    return found[0] if found else None


def _import_methods(cloud: Cloud) -> list[str]:
    try:
        return list(ask(cloud, "image", "GET", "/info/import")["import-methods"]["value"])
    except sdk.NotFoundException:
        return []


def _task_says(cloud: Cloud, image: str) -> str:
    try:
        tasks = ask(cloud, "image", "GET", f"/images/{image}/tasks")["tasks"]
    except (sdk.SDKException, KeyError):
        return ""
    said = "; ".join(str(one.get("message") or "") for one in tasks[-2:])
    return f": {printable(said, 200)}" if said.strip("; ") else ""


def _send(cloud: Cloud, target: str, path: str, size: int) -> str:
    """Blocking. SHA-512 of what was sent, in hex."""
    cloud.image.get_endpoint_data()  # a token that ends soon is renewed now: a body cannot be sent twice
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise Corrupt(f"{path} holds {os.fstat(file.fileno()).st_size} bytes, not {size}")
            body = _Hashing(file)
            answer = cloud.image.request(
                target, "PUT", data=body, headers={"Content-Type": "application/octet-stream"}, timeout=600
            )
            sdk.raise_from_response(answer)
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error
    if body.count != size:
        raise Unavailable(f"{body.count} bytes were sent to Glance, not {size}: the login ended meanwhile")
    return body.digest.hexdigest()
