"""Meets ``InstanceTarget``: imports machines with their disks, starts or removes them, found by instance UUID."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from pyVmomi import vim

from coriolis.convert.text import shown
from coriolis.errors import Conflict, InvalidInput, NotFound, QuotaExceeded, TimedOut, Unsupported
from coriolis.ids import is_id
from coriolis.model.resource import Instance, InstanceRequest, ResourceKind, Tag, TaggedResource
from coriolis.providers.schema_check import check_document
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere import import_spec as wanted
from coriolis.providers.vmware_vsphere.import_lease import DiskFile, Import
from coriolis.providers.vmware_vsphere.mac_addresses import (
    as_template,
    kept_macs,
    macs_of,
    macs_of_others,
    needs_others,
)
from coriolis.providers.vmware_vsphere.machine_spec import plain_name
from coriolis.providers.vmware_vsphere.placement import Place, choose_place, survey
from coriolis.providers.vmware_vsphere.properties import all_of, some
from coriolis.providers.vmware_vsphere.schemas import DESTINATION_ENVIRONMENT
from coriolis.providers.vmware_vsphere.session import Session
from coriolis.providers.vmware_vsphere.stream_writer import capacity_of
from coriolis.providers.vmware_vsphere.volumes import VsphereVolumes

TASK_TIMEOUT_S = 1800.0
POLL_S = 0.5
LEASE_END_S = 360.0
"""vSphere locks a machine until the lease of a dead agent has timed out (300 s), and removes it then."""
RETRY_S = 5.0
_PATHS = ("name", "config.extraConfig", "config.template", "runtime.powerState")


class Machine(msgspec.Struct, frozen=True):
    """What stands at the destination. ``tag`` and ``state``: our marks, empty for somebody else's machine."""

    id: str
    name: str
    tag: str
    state: str
    template: bool
    running: bool


class VsphereInstances:
    """Instance ids are instance UUIDs, given by the caller."""

    def __init__(
        self, session: Session, info: Mapping[str, Any], volumes: VsphereVolumes, surroundings: Surroundings
    ) -> None:
        self._session, self._info, self._volumes = session, info, volumes
        self._tell = surroundings.tell

    async def validate(self, request: InstanceRequest) -> None:
        """Everything but the bytes. Warns of MAC addresses that vSphere does not take and of a datastore too full."""
        _check_request(request)
        sizes = _sizes(request)
        place = await self._session.run(lambda content: self._prepared(content, request, sizes))
        self._warn_of_macs(request, ())
        self._check_room(place, [capacity_of(size) for size in sizes], at_once=not _is_thin(request))

    def _prepared(self, content: Any, request: InstanceRequest, sizes: list[int]) -> Place:
        """Where the machine goes, after a check that everything about it can be made. Blocking."""
        if content.about.apiType == "HostAgent" and as_template(request):
            raise Unsupported(
                "a single ESXi host has no templates: connect to its vCenter, or set as_template to false"
            )
        stores, networks = wanted.storage_of(request), wanted.networks_of(request)
        place = choose_place(survey(content), request.environment, stores, networks)
        wanted.import_spec(request, place, sizes, macs_of(request, ()))
        _existing(content, request, place.folder.id)
        return place

    def _warn_of_macs(self, request: InstanceRequest, macs: tuple[str, ...]) -> None:
        """``macs``: those that the NICs get; none before they are chosen."""
        if not request.environment.get("keep_mac", True):
            return
        for number, (nic, kept) in enumerate(zip(request.spec.devices.nics, kept_macs(request), strict=True)):
            if nic.mac_address and not kept:
                other = (macs[number] if macs else "another") or "a generated one"
                self._tell(
                    f"vSphere does not take the MAC address {shown(nic.mac_address)} from outside: the NIC on "
                    f"{shown(nic.network_name)} gets {other}",
                    "WARNING",
                )

    async def reserve_nics(self, request: InstanceRequest) -> tuple[str, ...]:
        """Those that the import states; kept beside the first staged disk, nothing is made in vSphere. A machine of a
        template gets its own from vSphere: the origin's are told."""
        _check_request(request)
        macs = await self._macs(request)
        return tuple(
            mac or (nic.mac_address or "").lower() for mac, nic in zip(macs, request.spec.devices.nics, strict=True)
        )

    async def _macs(self, request: InstanceRequest) -> tuple[str, ...]:
        """As they were chosen once, or chosen now. Raises Conflict when another machine got one meanwhile."""
        taken: set[str] = set()
        if needs_others(request):
            taken = await self._session.run(lambda content: macs_of_others(content, request.instance_id))
        macs = await asyncio.to_thread(self._volumes.noted_macs, request) if request.volumes else ()
        if not macs:
            macs = macs_of(request, taken)
            self._warn_of_macs(request, macs)
            if request.volumes:
                await asyncio.to_thread(self._volumes.note_macs, request, macs)
        lost = [mac for mac, kept in zip(macs, kept_macs(request), strict=True) if not kept and mac in taken]
        if lost:
            raise Conflict(
                f"the MAC address {lost[0]} was chosen for the machine, and its guest may be converted for it, but "
                "another machine has it now: change that one's address"
            )
        return macs

    def _check_room(self, place: Place, needs: list[int], *, at_once: bool) -> None:
        """``needs``: bytes of each disk. Too little room is an error when all of it is taken ``at_once``."""
        needed: dict[str, int] = {}
        for store, need in zip(place.stores, needs, strict=False):  # a machine without disks still has a datastore
            needed[store.id] = needed.get(store.id, 0) + need
        for store in place.stores:
            need = needed.pop(store.id, 0)
            if need <= store.free_bytes:
                continue
            text = f"datastore {shown(store.name)} has {store.free_bytes} bytes left, the disks have {need}"
            if at_once:
                raise QuotaExceeded(f"{text}: free space, or choose another datastore or disk_allocation thin")
            self._tell(f"{text}; they are thin, and will fill it when they are written", "WARNING")

    async def create_instance(self, request: InstanceRequest) -> Instance:
        """Uploads the staged disks unless the machine stands already; then they may be gone. What an interrupted
        attempt left is removed first."""
        _check_request(request)
        sizes = _sizes(request)
        place = await self._session.run(lambda content: self._prepared(content, request, sizes))
        found = await self._session.run(lambda content: _existing(content, request, place.folder.id))
        if found is None or found.state != wanted.READY:
            files = await asyncio.to_thread(lambda: [self._volumes.file(volume.id) for volume in request.volumes])
            if found is not None:
                self._tell(f"the disks of {shown(found.name)} are incomplete after an interrupted upload: made anew")
                await self._remove(request.instance_id)
            found, identity = None, await self._import(request, place, files)
        else:
            identity = found.id
        if as_template(request) and not (found and found.template):
            await self._session.run(lambda content: _vm(content, identity).MarkAsTemplate())
        staged = tuple(volume.id for volume in request.volumes)
        return Instance(request.instance_id, request.name, bool(found and found.running), staged)

    async def _import(self, request: InstanceRequest, place: Place, files: list[tuple[str, int]]) -> str:
        macs = await self._macs(request)
        sizes = [size for _, size in files]
        data = await asyncio.to_thread(lambda: [os.stat(path).st_blocks * 512 for path, _ in files])
        self._check_room(place, data if _is_thin(request) else sizes, at_once=True)
        kind = wanted.controller_of(request.spec, request.environment.get("disk_controller", ""))
        places = wanted.disk_places(kind, len(files))
        disks = [DiskFile(*file, *at) for file, at in zip(files, places, strict=True)]
        self._tell(f"uploading {len(disks)} disks, {sum(data)} bytes before compression, to {self._session.where}")
        spec = wanted.import_spec(request, place, sizes, macs)
        identity = await Import(self._session, self._info, disks).run(place, spec)
        await self._check_identity(identity, request.instance_id)
        change = vim.vm.ConfigSpec(extraConfig=wanted.marks(request.tag, wanted.READY))
        await self._patiently(lambda content: _vm(content, identity).ReconfigVM_Task(spec=change))
        return identity

    async def _check_identity(self, identity: str, instance_id: str) -> None:
        """vCenter gives a machine another instance UUID when it knows the wanted one already."""
        paths = ["config.instanceUuid"]
        values = await self._session.run(lambda content: next(some(content, [_vm(content, identity)], paths))[1])
        if values.get("config.instanceUuid") != instance_id:
            raise Conflict(f"vSphere did not take the instance UUID {instance_id}: another machine must have it")

    async def start(self, instance_id: str) -> None:
        """A template cannot run; that it was not started is an event."""
        found = await self._session.run(lambda content: _by_uuid(content, instance_id))
        if found is None:
            raise NotFound(f"there is no machine {instance_id} at {self._session.where}")
        if found.state == wanted.IMPORTING:
            raise Conflict(f"the disks of {shown(found.name)} are incomplete: create it again")
        if found.template:
            self._tell(f"{shown(found.name)} is a template: it is not started")
        elif not found.running:
            await self._task(lambda content: _vm(content, found.id).PowerOnVM_Task())

    async def delete_instance(self, instance_id: str) -> None:
        found = await self._session.run(lambda content: _by_uuid(content, instance_id)) if is_id(instance_id) else None
        if found is None:
            return
        if Tag.parse(found.tag) is None:
            raise Conflict(f"machine {shown(found.name)} was not made by Coriolis: it is left alone")
        await self._remove(instance_id)

    async def _remove(self, instance_id: str) -> None:
        """Power off and destroy a machine of ours."""
        found = await self._session.run(lambda content: _by_uuid(content, instance_id))
        if found is not None and found.running:
            await self._task(lambda content: _vm(content, found.id).PowerOffVM_Task())
        if found is not None:
            await self._patiently(lambda content: _vm(content, found.id).Destroy_Task(), gone_is_fine=True)

    async def find_tagged(self, job_id: str) -> list[TaggedResource]:
        """By the first line of the machines' notes: one small property of each machine, read in pages."""

        def search(content: Any) -> list[TaggedResource]:
            found = []
            paths = ["name", "config.annotation", "config.instanceUuid"]
            for _, values in all_of(content, vim.VirtualMachine, paths):
                tag = wanted.tag_in(values.get("config.annotation") or "")
                if tag is not None and tag.job_id == job_id:
                    identity, name = values.get("config.instanceUuid", ""), plain_name(values["name"])
                    found.append(TaggedResource(ResourceKind.INSTANCE, identity, name, tag))
            return found

        return await self._session.run(search) + await self._volumes.find(job_id)

    async def _task(self, begin: Callable[[Any], Any]) -> None:
        """Run a task of vSphere to its end. Raises its fault as ours, TimedOut."""
        identity = await self._session.run(lambda content: str(begin(content)._moId))

        def ended(content: Any) -> bool:
            task = vim.Task(identity, content.rootFolder._stub)
            state = str(next(some(content, [task], ["info.state"]))[1].get("info.state", ""))
            if state == "error":
                raise next(some(content, [task], ["info.error"]))[1]["info.error"]
            return state == "success"

        deadline = time.monotonic() + TASK_TIMEOUT_S
        while not await self._session.run(ended):
            if time.monotonic() > deadline:
                raise TimedOut(f"a task of vSphere did not end within {TASK_TIMEOUT_S:.0f} s; it goes on there")
            await asyncio.sleep(POLL_S)

    async def _patiently(self, begin: Callable[[Any], Any], *, gone_is_fine: bool = False) -> None:
        """A task on a machine that a lease may still lock, be it ours that just ended or that of a dead agent."""
        deadline = time.monotonic() + LEASE_END_S
        while True:
            try:
                return await self._task(begin)
            except NotFound:
                if gone_is_fine:
                    return None
                raise
            except Conflict:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(RETRY_S)


def _is_thin(request: InstanceRequest) -> bool:
    return bool(request.environment.get("disk_allocation", "thin") == "thin")


def _check_request(request: InstanceRequest) -> None:
    check_document(request.environment, DESTINATION_ENVIRONMENT, "target_environment")
    wanted.vsphere_name(request.name)
    if not is_id(request.instance_id):
        raise InvalidInput(f"instance id {request.instance_id!r} is not a UUID")
    if request.volumes and len(request.volumes) != len(request.spec.devices.disks):
        raise InvalidInput(f"{len(request.volumes)} volumes for {len(request.spec.devices.disks)} disks")


def _sizes(request: InstanceRequest) -> list[int]:
    return [v.size_bytes for v in request.volumes] or [d.size_bytes for d in request.spec.devices.disks]


def _vm(content: Any, identity: str) -> Any:
    return vim.VirtualMachine(identity, content.rootFolder._stub)


def _machine(content: Any, vm: Any) -> Machine | None:
    found = next(some(content, [vm], _PATHS), None)
    if found is None:
        return None
    values = found[1]
    tag, state = wanted.marks_of(values.get("config.extraConfig") or ())
    template = bool(values.get("config.template"))
    running = str(values.get("runtime.powerState")) == "poweredOn"
    return Machine(str(vm._moId), plain_name(values["name"]), tag, state, template, running)


def _by_uuid(content: Any, instance_id: str) -> Machine | None:
    found = content.searchIndex.FindAllByUuid(uuid=instance_id, vmSearch=True, instanceUuid=True)
    return _machine(content, found[0]) if found else None


def _existing(content: Any, request: InstanceRequest, folder: str) -> Machine | None:
    """Our machine from an earlier call, or None. Raises Conflict for somebody else's of that UUID or name."""
    ours = _by_uuid(content, request.instance_id)
    if ours is not None and ours.tag == str(request.tag):
        return ours
    home = vim.Folder(folder, content.rootFolder._stub)
    named = content.searchIndex.FindChild(entity=home, name=wanted.vsphere_name(request.name))
    other = ours or (_machine(content, named) if isinstance(named, vim.VirtualMachine) else None)
    if other is not None or named is not None:
        name = other.name if other is not None else request.name
        raise Conflict(
            f"{shown(name)} exists in the folder and is not of this job: choose another instance name or folder, or "
            "rename it"
        )
    return None
