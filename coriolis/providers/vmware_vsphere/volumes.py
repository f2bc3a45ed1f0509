"""Disks on their way to a datastore: raw files in the agent's staging directory, as vSphere takes only whole images."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from coriolis.errors import Corrupt, InvalidInput
from coriolis.model.resource import InstanceRequest, TaggedResource, Volume, VolumeRequest
from coriolis.providers.base import BlockWriter
from coriolis.providers.block import sidecar
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.staged import StagedVolumes
from coriolis.providers.vmware_vsphere.stream_writer import MAX_SIZE_BYTES

FOLDER = "vmware_vsphere"


class ChosenMacs(msgspec.Struct, frozen=True):
    """Of a machine's NICs, in their order. Kept beside its first staged disk, and gone with it."""

    instance_id: str
    macs: tuple[str, ...]


class VsphereVolumes:
    """Meets ``VolumeTarget``. ``endpoint`` (``host:port``) keeps apart what goes to different clouds."""

    def __init__(self, staging_dir: Path | None, endpoint: str) -> None:
        name = "".join(one if one.isalnum() or one in ".-" else "_" for one in endpoint)
        self._directory = staging_dir / FOLDER / name if staging_dir is not None else None

    def _staged(self) -> StagedVolumes:
        """Raises InvalidInput when the agent has no staging directory. Blocking."""
        if self._directory is None:
            raise InvalidInput(
                "a vSphere destination keeps disks in the agent's staging directory until they are whole: set "
                "staging_dir in the agent's configuration"
            )
        try:
            for folder in (self._directory.parent, self._directory):  # a parent that mkdir makes ignores the mode
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, f"create the staging folder {self._directory}") from error
        return StagedVolumes(str(self._directory), MAX_SIZE_BYTES)

    async def create_volume(self, request: VolumeRequest) -> Volume:
        volume = await (await asyncio.to_thread(self._staged)).create_volume(request)
        if not request.storage:
            return volume
        return msgspec.structs.replace(volume, attributes={**volume.attributes, "datastore": request.storage})

    async def delete_volume(self, volume_id: str) -> None:
        def forget() -> StagedVolumes:
            staged = self._staged()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_note_of(staged, volume_id))
            return staged

        await (await asyncio.to_thread(forget)).delete_volume(volume_id)

    @asynccontextmanager
    async def open_writer(self, volume_id: str) -> AsyncIterator[BlockWriter]:
        async with (await asyncio.to_thread(self._staged)).open_writer(volume_id) as writer:
            yield writer

    def file(self, volume_id: str) -> tuple[str, int]:
        """Path and size in bytes of a staged disk. Raises NotFound. Blocking."""
        staged = self._staged()
        record = staged.require(volume_id)
        return staged.path(volume_id), record.size_bytes

    def note_macs(self, request: InstanceRequest, macs: tuple[str, ...]) -> None:
        """Remember them across kills, once the machine has a staged disk. Blocking."""
        staged = self._staged()
        staged.require(request.volumes[0].id)
        note = msgspec.json.encode(ChosenMacs(request.instance_id, macs))
        sidecar.write_atomically(_note_of(staged, request.volumes[0].id), note)

    def noted_macs(self, request: InstanceRequest) -> tuple[str, ...]:
        """What ``note_macs`` remembers of this machine; else empty. Blocking."""
        path = _note_of(self._staged(), request.volumes[0].id)
        data = sidecar.read_bounded(path)
        if data is None:
            return ()
        try:
            found = msgspec.json.decode(data, type=ChosenMacs)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"{path} does not hold the MAC addresses of a machine: {error}") from error
        same = found.instance_id == request.instance_id and len(found.macs) == len(request.spec.devices.nics)
        return found.macs if same else ()

    async def find(self, job_id: str) -> list[TaggedResource]:
        """Volumes of the job."""

        def search() -> list[TaggedResource]:
            return self._staged().find(job_id) if self._directory is not None else []

        return await asyncio.to_thread(search)


def _note_of(staged: StagedVolumes, volume_id: str) -> str:
    return f"{staged.path(volume_id)}.macs"
