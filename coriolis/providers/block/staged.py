"""Raw volumes staged as sparse files in a directory, with their records: create, write, delete, find."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from coriolis.durable_file import sync_directory
from coriolis.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from coriolis.model.resource import ResourceKind, TaggedResource, Volume, VolumeRequest
from coriolis.providers.base import BlockWriter
from coriolis.providers.block import sidecar
from coriolis.providers.block.os_errors import free_bytes, from_os_error
from coriolis.providers.block.raw_file import raw_writer, sparse_file

RESERVE_BYTES = 16 << 20
"""Left free on the storage for our records and the file system's own."""


def check_space(directory: str, wanted: int, overcommit: bool) -> None:
    """Raise QuotaExceeded with both sizes unless ``wanted`` bytes fit now, or sparse overcommit is allowed."""
    try:
        left = free_bytes(directory)
    except OSError as error:
        raise from_os_error(error, f"measure {directory}") from error
    needed = RESERVE_BYTES if overcommit else wanted + RESERVE_BYTES
    if needed > left:
        raise QuotaExceeded(
            f"{directory} has {left} bytes left but {needed} are needed: free space or choose another storage"
        )


def check_size(size: int, limit: int) -> None:
    """Raise unless 0 <= size <= limit."""
    if size < 0:
        raise InvalidInput(f"a volume cannot have {size} bytes")
    if size > limit:
        raise QuotaExceeded(f"the disk has {size} bytes; this endpoint accepts at most {limit}: raise max_disk_bytes")


class StagedVolumes:
    """Meets ``VolumeTarget`` over the hidden folder of ``directory``."""

    def __init__(self, directory: str, max_size: int) -> None:
        self._directory, self._max_size = directory, max_size

    def path(self, name: str) -> str:
        """Where the bytes of volume ``name`` are."""
        checked = sidecar.check_name(name, "volume name")
        return os.path.join(self._directory, sidecar.FOLDER, f"{checked}.raw.partial")

    async def create_volume(self, request: VolumeRequest) -> Volume:
        return await asyncio.to_thread(self._create, request)

    def _create(self, request: VolumeRequest) -> Volume:
        path = self.path(request.name)
        limit = request.environment.get("max_disk_bytes", self._max_size)
        check_size(request.size_bytes, min(limit, self._max_size))
        wanted = sidecar.VolumeRecord(request.name, request.size_bytes, "raw", request.tag.job_id, request.tag.role)
        existing = sidecar.load(self._directory, request.name)
        if existing is not None:
            sidecar.check_same(existing, wanted)
        elif os.path.lexists(path):
            raise Conflict(f"{path} exists but is not ours: remove it")
        if not os.path.lexists(path):
            overcommit = bool(request.environment.get("allow_overcommit", False))
            check_space(self._directory, request.size_bytes, overcommit)
            sidecar.store(self._directory, wanted)
            # Sized under another name first: a volume that exists has its full size, whenever we are killed.
            fresh = f"{path}.new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            sparse_file(fresh, request.size_bytes)
            os.rename(fresh, path)
            sync_directory(Path(path).parent)
        return Volume(request.name, request.name, request.size_bytes, True, {"path": path, "format": "raw"})

    async def delete_volume(self, volume_id: str) -> None:
        await asyncio.to_thread(self._delete, volume_id)

    def _delete(self, volume_id: str) -> None:
        path = self.path(volume_id)
        if sidecar.load(self._directory, volume_id) is None:
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            sidecar.remove(self._directory, volume_id)
        except OSError as error:
            raise from_os_error(error, f"delete {path}") from error

    def require(self, volume_id: str) -> sidecar.VolumeRecord:
        """The record of a volume that exists. Raises NotFound."""
        record = sidecar.load(self._directory, volume_id)
        if record is None or not os.path.exists(self.path(volume_id)):
            raise NotFound(f"no volume {volume_id!r} in {self._directory}")
        return record

    @asynccontextmanager
    async def open_writer(self, volume_id: str) -> AsyncIterator[BlockWriter]:
        await asyncio.to_thread(self.require, volume_id)
        async with raw_writer(self.path(volume_id)) as writer:
            yield writer

    def find(self, job_id: str) -> list[TaggedResource]:
        """Volumes of the job."""
        return [
            TaggedResource(ResourceKind.VOLUME, record.name, record.name, record.tag)
            for record in sidecar.all_records(self._directory)
            if record.job_id == job_id
        ]
