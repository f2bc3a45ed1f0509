"""Virtual machines, templates, networks and datastores of an endpoint. Raises what ``Session.run`` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from pyVmomi import vim

from coriolis.errors import Conflict, NotFound
from coriolis.ids import is_id
from coriolis.model.finding import Finding
from coriolis.model.machine import MachineSpec
from coriolis.model.network import CloudConfiguration
from coriolis.providers.base import Named, Page
from coriolis.providers.vmware_vsphere import snapshots
from coriolis.providers.vmware_vsphere.configuration import configuration
from coriolis.providers.vmware_vsphere.findings import FINDING_PROPERTIES, findings
from coriolis.providers.vmware_vsphere.machine_spec import MACHINE_PROPERTIES, plain_name, spec_of
from coriolis.providers.vmware_vsphere.place import place_of
from coriolis.providers.vmware_vsphere.properties import all_of, ids_of, some
from coriolis.providers.vmware_vsphere.session import Session

MAX_CANDIDATES = 10
MAX_DEPTH = 64


class Found(msgspec.Struct, frozen=True):
    """A machine as its list shows it. ``path``: ``/datacenter/vm/folder/name``."""

    id: str
    name: str
    instance_uuid: str
    path: str


class VsphereInventory:
    """Meets ``Inventory``, ``ExaminesInstances``; ids are managed objects': ``vm-42``."""

    def __init__(self, session: Session, *, vddk: bool = False) -> None:
        self._session, self._vddk = session, vddk

    async def list_instances(self, page: Page) -> list[MachineSpec]:
        return await self._session.run(lambda content: _list(content, page))

    async def get_instance(self, instance: str) -> MachineSpec:
        """By name, inventory path, instance UUID or managed object id. Raises Conflict that lists the candidates."""
        return await self._session.run(lambda content: _get(content, instance))

    async def examine(self, instance_id: str) -> list[Finding]:
        def look(content: Any) -> list[Finding]:
            vm = snapshots.machine(content, instance_id)
            properties = next(some(content, [vm], FINDING_PROPERTIES))[1]
            foreign = snapshots.depth(snapshots.roots(content, vm))
            return findings(properties, foreign, place_of(content, instance_id).datastores, vddk=self._vddk)

        return await self._session.run(look)

    async def list_networks(self) -> list[Named]:
        return await self._session.run(
            lambda content: [Named(one.id, one.name) for one in _named(content, vim.Network)]
        )

    async def list_storage(self) -> list[Named]:
        return await self._session.run(
            lambda content: [Named(one.name, one.name) for one in _named(content, vim.Datastore)]
        )

    async def configuration(self) -> CloudConfiguration:
        """Kinds and VLANs of networks, kinds and sizes of datastores."""
        return await self._session.run(configuration)

    async def list_flavors(self) -> list[Named]:
        """vSphere has none: machines state processors and memory themselves."""
        return []


def _named(content: Any, kind: type) -> list[Named]:
    found = [Named(str(one._moId), plain_name(values["name"])) for one, values in all_of(content, kind, ["name"])]
    return sorted(found, key=lambda one: (one.name, one.id))


def machines(content: Any) -> list[Found]:
    """All machines and templates, by path."""
    parents: dict[str, tuple[str, str]] = {}
    for kind in (vim.Folder, vim.Datacenter):
        for one, values in all_of(content, kind, ["name", "parent"]):
            above = values.get("parent")
            parents[str(one._moId)] = (plain_name(values["name"]), str(above._moId) if above is not None else "")
    found = []
    for one, values in all_of(content, vim.VirtualMachine, ["name", "config.instanceUuid", "parent"]):
        name = plain_name(values.get("name", ""))
        above = values.get("parent")
        folder = path_of(str(above._moId), parents) if above is not None else ""
        found.append(Found(str(one._moId), name, values.get("config.instanceUuid", ""), f"{folder}/{name}"))
    return sorted(found, key=lambda machine: (machine.path, machine.id))


def path_of(identity: str, parents: Mapping[str, tuple[str, str]]) -> str:
    """``/datacenter/vm/folder`` of a folder; the root folder, which is in no table, is left out."""
    parts: list[str] = []
    while identity in parents and len(parts) < MAX_DEPTH:
        name, identity = parents[identity]
        parts.append(name)
    return "".join(f"/{name}" for name in reversed(parts))


def choose(known: Iterable[Found], wanted: str) -> str:
    """The id of the one machine that ``wanted`` names. Raises NotFound, Conflict with the paths to choose from."""
    exact = [one for one in known if wanted in (one.id, one.path) or (is_id(wanted) and one.instance_uuid == wanted)]
    if len(exact) == 1:
        return exact[0].id
    named = exact or [one for one in known if one.name == wanted]
    if not named:
        raise NotFound(f"there is no virtual machine or template {wanted[:100]!r}; name, path, instance UUID or id")
    if len(named) > 1:
        paths = ", ".join(f"{one.path} ({one.id})" for one in named[:MAX_CANDIDATES])
        raise Conflict(f"{len(named)} machines are called {wanted[:100]!r}; name one by its path: {paths}")
    return named[0].id


def _list(content: Any, page: Page) -> list[MachineSpec]:
    ids = sorted(one for one in ids_of(content, vim.VirtualMachine) if one > page.marker)
    return _describe(content, ids[: page.limit])


def _get(content: Any, instance: str) -> MachineSpec:
    known = machines(content)
    return _describe(content, [choose(known, instance)])[0]


def _describe(content: Any, ids: list[str]) -> list[MachineSpec]:
    objects = [vim.VirtualMachine(one, content.rootFolder._stub) for one in ids]
    networks = network_names(content)
    # one by one: what pyvmomi makes of a machine is a hundred times as large as its specification
    read = some(content, objects, MACHINE_PROPERTIES)
    specs = {str(one._moId): spec_of(str(one._moId), values, networks) for one, values in read}
    return [specs[one] for one in ids if one in specs]


def network_names(content: Any) -> dict[str, str]:
    """Names by managed object id, and of distributed port groups by their key too."""
    names = {one.id: one.name for one in _named(content, vim.Network)}
    for one, values in all_of(content, vim.dvs.DistributedVirtualPortgroup, ["key", "name"]):
        names[values["key"]] = names[str(one._moId)] = plain_name(values["name"])
    return names
