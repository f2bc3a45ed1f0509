"""Instances written into an image directory: ``<name>.disks/`` first, then ``<name>.toml``, each in one rename."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from coriolis.durable_file import sync_directory
from coriolis.errors import Conflict, CoriolisError, Corrupt, InvalidInput, NotFound
from coriolis.ids import is_id
from coriolis.model.resource import Instance, InstanceRequest, ResourceKind, TaggedResource
from coriolis.providers.block import sidecar
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.staged import StagedVolumes
from coriolis.providers.image import description as text
from coriolis.providers.image.convert import OUTPUTS, check_output, write_as
from coriolis.providers.image.inventory import instance_files
from coriolis.providers.image.schemas import DESTINATION_ENVIRONMENT
from coriolis.providers.schema_check import check_document

OWNER_FILE = "coriolis-instance.json"
DISKS_SUFFIX = ".disks"
STAGING_SUFFIX = ".instance"
STARTED_SUFFIX = ".started"


class Owner(msgspec.Struct, frozen=True):
    """Kept inside each disk folder: whose it is, before and after the description exists."""

    name: str
    mark: text.Mark


class ImageInstances:
    """Meets ``InstanceTarget``. Nothing runs here: ``start`` only leaves a mark that the caller asked for it."""

    def __init__(self, directory: str, volumes: StagedVolumes) -> None:
        self._directory, self._volumes = directory, volumes

    async def validate(self, request: InstanceRequest) -> None:
        await asyncio.to_thread(self._validate, request)

    def _validate(self, request: InstanceRequest) -> None:
        check_document(request.environment, DESTINATION_ENVIRONMENT, "target_environment")
        sidecar.check_name(request.name, "instance name")
        if not is_id(request.instance_id):
            raise InvalidInput(f"instance id {request.instance_id!r} is not a UUID")
        wanted = request.environment.get("format", "raw")
        sizes = [v.size_bytes for v in request.volumes] or [d.size_bytes for d in request.spec.devices.disks]
        for size in sizes:
            check_output(size, wanted)
        if request.volumes and len(request.volumes) != len(request.spec.devices.disks):
            raise InvalidInput(f"{len(request.volumes)} volumes for {len(request.spec.devices.disks)} disks")
        for path in (self._toml(request.name), self._ova(request.name)):
            if os.path.lexists(path) and self._mark_of(path) != request.instance_id:
                raise Conflict(f"{path} exists and is not of this job: choose another instance name or remove it")
        owner = self._owner(self._disks(request.name))
        if os.path.lexists(self._disks(request.name)) and (
            owner is None or owner.mark.instance_id != request.instance_id
        ):
            raise Conflict(f"{self._disks(request.name)} exists and is not of this job: remove it")

    def _toml(self, name: str) -> str:
        return os.path.join(self._directory, f"{name}.toml")

    def _ova(self, name: str) -> str:
        return os.path.join(self._directory, f"{name}.ova")

    def _disks(self, name: str) -> str:
        return os.path.join(self._directory, f"{name}{DISKS_SUFFIX}")

    def _staging(self, instance_id: str) -> str:
        return os.path.join(sidecar.folder(self._directory), f"{instance_id}{STAGING_SUFFIX}")

    def _started(self, instance_id: str) -> str:
        return os.path.join(sidecar.folder(self._directory), f"{instance_id}{STARTED_SUFFIX}")

    def _mark_of(self, path: str) -> str:
        data = sidecar.read_bounded(path, text.MAX_DESCRIPTION_BYTES) if path.endswith(".toml") else None
        if data is None:
            return ""
        try:
            mark = text.parse(data, path).coriolis
        except CoriolisError:
            return ""  # somebody's own file
        return mark.instance_id if mark else ""

    def _owner(self, folder: str) -> Owner | None:
        try:
            data = sidecar.read_bounded(os.path.join(folder, OWNER_FILE))
            return msgspec.json.decode(data, type=Owner) if data is not None else None
        except (msgspec.MsgspecError, CoriolisError):
            return None

    async def create_instance(self, request: InstanceRequest) -> Instance:
        await asyncio.to_thread(self._validate, request)
        made = Instance(request.instance_id, request.name, running=False)
        if await asyncio.to_thread(self._mark_of, self._toml(request.name)) == request.instance_id:
            return made
        staging = await asyncio.to_thread(self._begin, request)
        wanted = request.environment.get("format", "raw")
        qemu_name, suffix, _ = OUTPUTS[wanted]
        files: list[text.DiskEntry] = []
        for index, volume in enumerate(request.volumes):
            self._volumes.require(volume.id)
            file = f"disk-{index}.{suffix}"
            await write_as(self._volumes.path(volume.id), os.path.join(staging, file), wanted)
            files.append(text.DiskEntry(f"{request.name}{DISKS_SUFFIX}/{file}", qemu_name, volume.size_bytes))
        await asyncio.to_thread(self._commit, request, staging, tuple(files))
        return made

    def _begin(self, request: InstanceRequest) -> str:
        """A fresh staging folder that already states its owner; what an interrupted attempt left is removed."""
        staging = self._staging(request.instance_id)
        mark = text.Mark(request.instance_id, request.tag.job_id, request.tag.role)
        try:
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(self._disks(request.name), ignore_errors=True)  # ours: ``_validate`` saw the owner
            os.mkdir(staging, 0o700)
        except OSError as error:
            raise from_os_error(error, f"create {staging}", self._directory) from error
        sidecar.write_atomically(os.path.join(staging, OWNER_FILE), msgspec.json.encode(Owner(request.name, mark)))
        return staging

    def _commit(self, request: InstanceRequest, staging: str, files: tuple[text.DiskEntry, ...]) -> None:
        networks = {**request.environment.get("network_map", {}), **request.network_map}
        described = text.render(text.from_request(request, files, networks))
        partial = os.path.join(sidecar.folder(self._directory), f"{request.instance_id}.toml")
        try:
            sync_directory(Path(staging))
            os.rename(staging, self._disks(request.name))
            sidecar.write_atomically(partial, described)
            # A link, unlike a rename, never replaces a file that appeared meanwhile.
            os.link(partial, self._toml(request.name))
            os.unlink(partial)
            sync_directory(Path(self._directory))
        except OSError as error:
            raise from_os_error(error, f"publish instance {request.name!r}", self._directory) from error

    async def start(self, instance_id: str) -> None:
        """Nothing can run here; a mark records that it was asked, success when it was asked before."""
        await asyncio.to_thread(self._start, instance_id)

    def _start(self, instance_id: str) -> None:
        if not any(mark.instance_id == instance_id for _, mark in self._marks()):
            raise NotFound(f"no instance {instance_id!r} of ours in {self._directory}")
        sidecar.write_atomically(self._started(instance_id), b"")

    async def delete_instance(self, instance_id: str) -> None:
        await asyncio.to_thread(self._delete, instance_id)

    def _delete(self, instance_id: str) -> None:
        if not is_id(instance_id):
            return  # we never made it
        try:
            for name, mark in self._marks():
                if mark.instance_id != instance_id:
                    continue
                if self._mark_of(self._toml(name)) == instance_id:
                    os.unlink(self._toml(name))
                owner = self._owner(self._disks(name))
                if owner is not None and owner.mark.instance_id == instance_id:
                    shutil.rmtree(self._disks(name))
            shutil.rmtree(self._staging(instance_id), ignore_errors=True)
            for left in (self._started(instance_id), self._staging(instance_id)[: -len(STAGING_SUFFIX)] + ".toml"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)
        except OSError as error:
            raise from_os_error(error, f"delete instance {instance_id}") from error

    def _marks(self) -> list[tuple[str, text.Mark]]:
        """(name, mark) of every instance of ours, finished or not."""
        found: dict[str, tuple[str, text.Mark]] = {}
        for name in instance_files(self._directory):
            with contextlib.suppress(InvalidInput, Corrupt):
                data = sidecar.read_bounded(self._toml(name), text.MAX_DESCRIPTION_BYTES)
                mark = text.parse(data, name).coriolis if data is not None else None
                if mark is not None:
                    found[mark.instance_id] = (name, mark)
        ours = sidecar.folder(self._directory)
        folders = [os.path.join(self._directory, n) for n in os.listdir(self._directory) if n.endswith(DISKS_SUFFIX)]
        folders += [os.path.join(ours, n) for n in os.listdir(ours) if n.endswith(STAGING_SUFFIX)]
        for folder in folders:
            owner = self._owner(folder)
            if owner is not None:
                found.setdefault(owner.mark.instance_id, (owner.name, owner.mark))
        return sorted(found.values(), key=lambda pair: pair[0])

    async def find_tagged(self, job_id: str) -> list[TaggedResource]:
        return await asyncio.to_thread(self._find, job_id)

    def _find(self, job_id: str) -> list[TaggedResource]:
        instances = [
            TaggedResource(ResourceKind.INSTANCE, mark.instance_id, name, mark.tag)
            for name, mark in self._marks()
            if mark.job_id == job_id
        ]
        return instances + self._volumes.find(job_id)
