"""Everything of a machine but the server: disks made bootable, ports, and the plan that a start follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from coriolis.convert.text import shown
from coriolis.errors import InvalidInput
from coriolis.ids import is_id
from coriolis.model.resource import InstanceRequest, Tag, Volume, VolumeRequest
from coriolis.providers.openstack import marks
from coriolis.providers.openstack.cinder_volumes import CinderVolumes, Found, marked
from coriolis.providers.openstack.guest_properties import guest_properties
from coriolis.providers.openstack.images import Images
from coriolis.providers.openstack.placing import Prepared
from coriolis.providers.openstack.ports import Ports
from coriolis.providers.openstack.rest import ask
from coriolis.providers.openstack.server_plan import ServerPlan, decode, encode
from coriolis.providers.openstack.session import Session
from coriolis.providers.openstack.volumes import OpenstackVolumes

PLAN_PROPERTY = "coriolis_plan"
"""Of an image that a machine boots from, or that is a template."""


def as_template(request: InstanceRequest) -> bool:
    """Whether an image is wanted instead of a machine: as the user says, else as the origin was one."""
    return bool(request.environment.get("as_template", request.spec.is_template))


def from_image(request: InstanceRequest) -> bool:
    """Whether the first disk ends as an image."""
    return as_template(request) or request.environment.get("boot_from", "volume") == "image"


class Reservation:
    """What is kept of a machine that does not exist yet; the plan is written last, so a plan is whole."""

    def __init__(self, session: Session, volumes: OpenstackVolumes, images: Images, ports: Ports) -> None:
        self._session, self._volumes, self._images, self._ports = session, volumes, images, ports
        self._cinder: CinderVolumes = volumes.cinder

    async def make(self, request: InstanceRequest, prepared: Prepared, tell: Callable[..., None]) -> ServerPlan:
        """Raises NotFound when a volume of the request is absent, Conflict when a server has one."""
        properties = guest_properties(request.spec, request.environment)
        owner = self._owner(request)
        staged = [not is_id(volume.id) for volume in request.volumes]
        for volume, is_file in zip(request.volumes, staged, strict=True):
            if is_file:
                await asyncio.to_thread(self._volumes.file, volume.id)
            else:
                standing = await self._cinder.require(volume.id)
                await self._cinder.free(standing)
                await self._cinder.keep_only(standing)
        image, disks = "", []
        for number, (volume, is_file) in enumerate(zip(request.volumes, staged, strict=True)):
            if number == 0 and from_image(request):
                image = await self._root_image(request, volume, is_file, {**properties, **owner})
            else:
                disks.append(await self._disk(request, volume, is_file, owner, tell))
        if disks and not image:
            await self._bootable(disks[0], properties)
        ports = () if as_template(request) else await self._ports.make(request, prepared)
        plan = ServerPlan(
            instance_id=request.instance_id,
            job_id=request.tag.job_id,
            tag=str(request.tag),
            name=request.name,
            flavor=prepared.flavor.id,
            volumes=tuple(disk.id for disk in disks),
            ports=ports,
            image=image,
            template=as_template(request),
            key=prepared.key,
            zone=prepared.zone,
            group=prepared.group,
            config_drive=bool(request.environment.get("config_drive", False)),
            origin=f"{request.spec.name} ({request.spec.id})",
        )
        await self._keep(plan, disks, owner)
        return plan

    def _owner(self, request: InstanceRequest) -> dict[str, str]:
        return {
            marks.JOB: request.tag.job_id,
            marks.INSTANCE: request.instance_id,
            marks.INSTANCE_TAG: str(request.tag),
        }

    async def _root_image(
        self, request: InstanceRequest, volume: Volume, is_file: bool, properties: dict[str, str]
    ) -> str:
        mark = f"{request.instance_id}/root"
        if is_file:
            path, size = await asyncio.to_thread(self._volumes.file, volume.id)
            return await self._images.upload(mark, request.name, path, size, properties)
        image = await self._images.of_volume(mark, request.name, volume.id, self._owner(request))
        await self._images.describe(image, properties)
        return image

    async def _disk(
        self, request: InstanceRequest, volume: Volume, is_file: bool, owner: dict[str, str], tell: Callable[..., None]
    ) -> Found:
        """The Cinder volume of a disk; of a staged one it is made, through an image that goes again."""
        if not is_file:
            return await self._cinder.require(volume.id)
        path, size = await asyncio.to_thread(self._volumes.file, volume.id)
        mark = f"{request.instance_id}/{volume.name}"
        tag = Tag(request.tag.job_id, f"{request.tag.role}/{volume.name}"[:200])
        kind = volume.attributes.get("volume_type", "")
        wanted = VolumeRequest(volume.name, size, tag, kind, request.environment)
        standing = [
            one
            for one in await self._session.read(lambda cloud: marked(cloud, marks.INSTANCE, request.instance_id))
            if one.metadata.get(marks.STAGED) == volume.name and one.status == "available"
        ]
        if not standing:
            tell(f"uploading disk {shown(volume.name)}, {size} bytes, as an image")
            image = await self._images.upload(mark, volume.name, path, size, owner)
            extra = {**owner, marks.STAGED: volume.name, marks.DRIVER: "image", marks.FORMAT: "raw"}
            standing = [await self._cinder.make(wanted, image, extra)]
        left = await self._images.found(mark)
        if left is not None:
            await self._images.delete(str(left["id"]))
        return standing[0]

    async def _bootable(self, disk: Found, properties: dict[str, str]) -> None:
        path = f"/volumes/{disk.id}/action"
        for body in ({"os-set_bootable": {"bootable": True}}, {"os-set_image_metadata": {"metadata": properties}}):
            await self._session.change(partial(ask, service="block_storage", method="POST", path=path, body=body))

    async def _keep(self, plan: ServerPlan, disks: list[Found], owner: dict[str, str]) -> None:
        if plan.image:
            extra = {PLAN_PROPERTY: encode(plan)}
            if plan.template and disks:
                extra["coriolis_data_volumes"] = ",".join(disk.id for disk in disks)
            await self._images.describe(plan.image, extra)
            return
        try:
            parts = marks.cut(encode(plan))
        except ValueError as error:
            raise InvalidInput(
                f"the machine has too many disks and NICs for the metadata of a volume: {error}"
            ) from error
        stale = {key: "" for key in disks[0].metadata if key.startswith(marks.PLAN) and key not in parts}
        await self._cinder.forget(disks[0], list(stale))
        await self._cinder.note(disks[0], {**owner, **parts})

    async def find(self, instance_id: str) -> ServerPlan | None:
        """The plan of a machine that is reserved, or was started since."""
        for found in await self._session.read(lambda cloud: marked(cloud, marks.INSTANCE, instance_id)):
            text = marks.joined(found.metadata)
            if text:
                return decode(text)
        for image in await self._images.of_instance(instance_id):
            if image.get(PLAN_PROPERTY):
                return decode(str(image[PLAN_PROPERTY]))
        return None

    async def cancel(self, instance_id: str) -> None:
        """Forget the plan: nobody can start the machine after it. Volumes that were made of staged disks stay yet."""
        for found in await self._session.read(lambda cloud: marked(cloud, marks.INSTANCE, instance_id)):
            keys = [key for key in found.metadata if key.startswith(marks.PLAN)]
            if marks.STAGED not in found.metadata:
                keys += [key for key in (marks.INSTANCE_TAG, marks.INSTANCE) if key in found.metadata]
            await self._cinder.forget(found, keys)
        for image in await self._images.of_instance(instance_id):
            if image.get(PLAN_PROPERTY):
                await self._images.describe(str(image["id"]), {PLAN_PROPERTY: ""})

    async def remove(self, instance_id: str) -> None:
        """Ports, images, and volumes that were made of staged disks. The server must be gone."""
        await self._remove_all_but(instance_id, None)

    async def remove_unplanned(self, instance_id: str) -> None:
        """What stands of the machine beside its plan: what killed agents asked for may be made late. The machine's
        server must have what is planned."""
        plan = await self.find(instance_id)
        if plan is not None:
            await self._remove_all_but(instance_id, plan)

    async def _remove_all_but(self, instance_id: str, plan: ServerPlan | None) -> None:
        await self._ports.delete(instance_id, plan.ports if plan else ())
        for found in await self._session.read(lambda cloud: marked(cloud, marks.INSTANCE, instance_id)):
            if marks.STAGED in found.metadata and found.id not in (plan.volumes if plan else ()):
                await self._cinder.delete_volume(found.id)
        for image in await self._images.of_instance(instance_id):
            if plan is None or image["id"] != plan.image:
                await self._images.delete(str(image["id"]))

    async def jobs_of(self, instance_id: str) -> set[str]:
        """Ids of the jobs that made what stands of a machine: one."""
        volumes = await self._session.read(lambda cloud: marked(cloud, marks.INSTANCE, instance_id))
        found = {one.metadata.get(marks.JOB, "") for one in volumes} | await self._ports.jobs_of(instance_id)
        return (found | {str(one.get(marks.JOB, "")) for one in await self._images.of_instance(instance_id)}) - {""}

    async def of_job(self, job_id: str) -> dict[str, Tag]:
        """Machines of which anything stands: {derived id: tag}."""
        found = await self._ports.of_job(job_id)
        for volume in await self._session.read(lambda cloud: marked(cloud, marks.JOB, job_id)):
            tag = Tag.parse(volume.metadata.get(marks.INSTANCE_TAG, ""))
            if tag is not None and marks.INSTANCE in volume.metadata:
                found[volume.metadata[marks.INSTANCE]] = tag
        for image in await self._images.of_job(job_id):
            tag = Tag.parse(str(image.get(marks.INSTANCE_TAG, "")))
            if tag is not None and image.get(marks.INSTANCE):
                found[str(image[marks.INSTANCE])] = tag
        return found
