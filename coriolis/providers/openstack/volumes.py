"""Meets ``VolumeTarget``: Cinder volumes that are written in place, or staged files that become images later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from coriolis.errors import InvalidInput
from coriolis.ids import is_id
from coriolis.model.resource import TaggedResource, Volume, VolumeRequest
from coriolis.providers.base import BlockWriter
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.staged import StagedVolumes
from coriolis.providers.openstack.cinder_volumes import CinderVolumes, gigabytes
from coriolis.providers.openstack.data_path import ATTACH, Ways, choose
from coriolis.providers.openstack.quotas import check_disk, volume_limits
from coriolis.providers.openstack.session import Session

FOLDER = "openstack"
MAX_SIZE_BYTES = 64 << 40


class OpenstackVolumes:
    """Ids of Cinder volumes are UUIDs, those of staged disks their names."""

    def __init__(
        self, session: Session, cinder: CinderVolumes, ways: Ways, staging_dir: Path | None, default_path: str
    ) -> None:
        self._session, self.cinder, self._ways, self._default = session, cinder, ways, default_path
        name = "".join(one if one.isalnum() or one in ".-" else "_" for one in f"{session.where}_{session.project_id}")
        self._directory = staging_dir / FOLDER / name if staging_dir is not None else None

    def path_of(self, environment: dict[str, object]) -> str:
        """``attach`` or ``upload``. Raises InvalidInput when the agent cannot."""
        return choose(str(environment.get("data_path", self._default)), self._ways)

    def _staged(self) -> StagedVolumes:
        """Blocking. Raises InvalidInput when the agent has no staging directory."""
        if self._directory is None:
            raise InvalidInput(self._ways.upload or "this agent has no staging_dir")
        try:
            for folder in (self._directory.parent, self._directory):  # a parent that mkdir makes ignores the mode
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, f"create the staging folder {self._directory}") from error
        return StagedVolumes(str(self._directory), MAX_SIZE_BYTES)

    async def create_volume(self, request: VolumeRequest) -> Volume:
        if self.path_of(request.environment) == ATTACH:
            return await self.cinder.create_volume(request)
        size = gigabytes(request.size_bytes)
        if request.size_bytes > 0:
            await self._session.read(lambda cloud: check_disk(volume_limits(cloud), size, request.size_bytes))
        volume = await (await asyncio.to_thread(self._staged)).create_volume(request)
        kind = request.storage or request.environment.get("volume_type", "")
        return msgspec.structs.replace(volume, attributes={**volume.attributes, "volume_type": kind})

    async def delete_volume(self, volume_id: str) -> None:
        if is_id(volume_id):
            await self.cinder.delete_volume(volume_id)
        elif self._directory is not None:
            await (await asyncio.to_thread(self._staged)).delete_volume(volume_id)

    @asynccontextmanager
    async def open_writer(self, volume_id: str) -> AsyncIterator[BlockWriter]:
        if is_id(volume_id):
            async with self.cinder.open_writer(volume_id) as writer:
                yield writer
            return
        async with (await asyncio.to_thread(self._staged)).open_writer(volume_id) as writer:
            yield writer

    def file(self, volume_id: str) -> tuple[str, int]:
        """Path and size in bytes of a staged disk. Raises NotFound. Blocking."""
        staged = self._staged()
        record = staged.require(volume_id)
        return staged.path(volume_id), record.size_bytes

    async def find(self, job_id: str) -> list[TaggedResource]:
        """Volumes of the job."""
        here = await asyncio.to_thread(lambda: self._staged().find(job_id) if self._directory is not None else [])
        return [*await self.cinder.find(job_id), *here]
