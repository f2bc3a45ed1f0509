"""Where at a destination a machine goes: folder, resource pool, host, datastores, networks; found by the user's words.

``survey`` reads the endpoint once; everything else is a pure choice among what it found. ``InvalidInput`` lists what
there is instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from pyVmomi import vim

from coriolis.convert.text import shown
from coriolis.errors import Conflict, InvalidInput
from coriolis.providers.vmware_vsphere.configuration import DISTRIBUTED, OPAQUE, STANDARD
from coriolis.providers.vmware_vsphere.inventory import path_of
from coriolis.providers.vmware_vsphere.machine_spec import plain_name
from coriolis.providers.vmware_vsphere.properties import all_of

K = TypeVar("K", bound="Thing")

MAX_LISTED = 10


class Thing(msgspec.Struct, frozen=True):
    """Of the inventory. ``path``: ``/datacenter/host/cluster/Resources``; ``above``: the id of what it is in."""

    id: str
    name: str
    path: str
    above: str = ""


class Compute(Thing, frozen=True):
    """A cluster or a host outside of any. ``pool``: its root resource pool."""

    pool: str = ""
    networks: tuple[str, ...] = ()
    datastores: tuple[str, ...] = ()


class Store(Thing, frozen=True):
    free_bytes: int = 0
    usable: bool = True


class Network(Thing, frozen=True):
    """``key``, ``switch``: a distributed port group's key and its switch's UUID, or an opaque network's id and type."""

    kind: str = STANDARD
    key: str = ""
    switch: str = ""


class Survey(msgspec.Struct, frozen=True):
    """All that a machine could be put into, by id. ``vm_folders``: each datacenter's root folder of machines."""

    computes: dict[str, Compute]
    pools: dict[str, Thing]
    hosts: dict[str, Thing]
    folders: dict[str, Thing]
    stores: dict[str, Store]
    networks: dict[str, Network]
    vm_folders: dict[str, str]
    parents: dict[str, tuple[str, str]]


class Place(msgspec.Struct, frozen=True):
    """Chosen. ``host`` is empty when vSphere may choose one."""

    folder: Thing
    compute: Compute
    pool: Thing
    host: str
    stores: tuple[Store, ...]
    networks: tuple[Network, ...]


def survey(content: Any) -> Survey:
    """Reads the endpoint. Blocking; some eight calls whatever its size."""
    parents: dict[str, tuple[str, str]] = {}
    rows: dict[type, list[tuple[str, dict[str, Any]]]] = {}
    for kind, paths in (
        (vim.Folder, ["name", "parent"]),
        (vim.Datacenter, ["name", "parent", "vmFolder"]),
        (vim.ComputeResource, ["name", "parent", "resourcePool", "network", "datastore"]),
        (vim.ResourcePool, ["name", "parent", "owner"]),
        (vim.HostSystem, ["name", "parent"]),
    ):
        rows[kind] = [(str(one._moId), values) for one, values in all_of(content, kind, paths)]
        for identity, values in rows[kind]:
            parents[identity] = (plain_name(values["name"]), _id(values.get("parent")))

    def thing(identity: str, values: Mapping[str, Any], above: str = "parent") -> tuple[str, str, str, str]:
        return identity, plain_name(values["name"]), path_of(identity, parents), _id(values.get(above))

    computes = {
        identity: Compute(
            *thing(identity, values),
            pool=_id(values.get("resourcePool")),
            networks=tuple(_id(one) for one in values.get("network") or ()),
            datastores=tuple(_id(one) for one in values.get("datastore") or ()),
        )
        for identity, values in rows[vim.ComputeResource]
    }
    return Survey(
        computes=computes,
        pools={identity: Thing(*thing(identity, values, "owner")) for identity, values in rows[vim.ResourcePool]},
        hosts={identity: Thing(*thing(identity, values)) for identity, values in rows[vim.HostSystem]},
        folders={identity: Thing(*thing(identity, values)) for identity, values in rows[vim.Folder]},
        stores=_stores(content),
        networks=_networks(content),
        vm_folders={identity: _id(values.get("vmFolder")) for identity, values in rows[vim.Datacenter]},
        parents=parents,
    )


def _id(reference: Any) -> str:
    return str(reference._moId) if reference is not None else ""


def _stores(content: Any) -> dict[str, Store]:
    paths = ["name", "summary.freeSpace", "summary.accessible", "summary.maintenanceMode"]
    found = {}
    for one, values in all_of(content, vim.Datastore, paths):
        usable = values.get("summary.accessible", True) and values.get("summary.maintenanceMode", "normal") == "normal"
        name, free = plain_name(values["name"]), values.get("summary.freeSpace") or 0
        found[_id(one)] = Store(_id(one), name, name, free_bytes=free, usable=usable)
    return found


def _networks(content: Any) -> dict[str, Network]:
    found = {}
    for one, values in all_of(content, vim.Network, ["name"]):
        name = plain_name(values["name"])
        found[_id(one)] = Network(_id(one), name, name)
    switches = {_id(one): values["uuid"] for one, values in all_of(content, vim.DistributedVirtualSwitch, ["uuid"])}
    paths = ["name", "key", "config.distributedVirtualSwitch"]
    for one, values in all_of(content, vim.dvs.DistributedVirtualPortgroup, paths):
        switch = switches.get(_id(values.get("config.distributedVirtualSwitch")), "")
        name = plain_name(values["name"])
        found[_id(one)] = Network(_id(one), name, name, kind=DISTRIBUTED, key=values["key"], switch=switch)
    for one, values in all_of(content, vim.OpaqueNetwork, ["name", "summary"]):
        name, summary = plain_name(values["name"]), values["summary"]
        key, switch = summary.opaqueNetworkId, summary.opaqueNetworkType
        found[_id(one)] = Network(_id(one), name, name, kind=OPAQUE, key=key, switch=switch)
    return found


def choose_place(
    known: Survey, environment: Mapping[str, Any], stores: Iterable[str], networks: Iterable[str]
) -> Place:
    """``stores`` and ``networks``: names or ids, one for each disk and NIC. Raises InvalidInput, Conflict."""
    compute, pool, host = _compute(known, environment)
    datacenter = _datacenter(known, compute)
    folder = _folder(known, environment.get("folder", ""), datacenter)
    there = [known.stores[one] for one in compute.datastores if one in known.stores]
    plugs = [known.networks[one] for one in compute.networks if one in known.networks]
    found = tuple(one_of("datastore", wanted, there, f"at {compute.name}") for wanted in stores)
    for store in found:
        if not store.usable:
            raise InvalidInput(f"datastore {shown(store.name)} is not accessible or in maintenance: choose another")
    return Place(
        folder=folder,
        compute=compute,
        pool=pool,
        host=host,
        stores=found,
        networks=tuple(one_of("network", wanted, plugs, f"at {compute.name}") for wanted in networks),
    )


def _compute(known: Survey, environment: Mapping[str, Any]) -> tuple[Compute, Thing, str]:
    host = one_of("host", name, known.hosts.values()) if (name := environment.get("host")) else None
    computes = list(known.computes.values())
    if name := environment.get("cluster"):
        computes = [one_of("cluster", name, computes)]
    if host is not None:
        computes = [one for one in computes if one.id == host.above]
        if not computes:
            raise InvalidInput(f"host {shown(host.name)} is not in the cluster {shown(environment.get('cluster'))}")
    if name := environment.get("resource_pool"):
        owners = {one.id: one for one in computes}
        pool = one_of("resource_pool", name, [one for one in known.pools.values() if one.above in owners])
        return owners[pool.above], pool, host.id if host else ""
    if len(computes) != 1:
        raise InvalidInput(
            f"target_environment names no cluster, host or resource_pool, and there are {len(computes)} to choose "
            f"from: {_listed(one.path for one in computes)}"
        )
    compute = computes[0]
    return compute, known.pools[compute.pool], host.id if host else ""


def _datacenter(known: Survey, compute: Compute) -> str:
    at = compute.above
    while at and at not in known.vm_folders:
        at = known.parents.get(at, ("", ""))[1]
    if not at:
        raise InvalidInput(f"{shown(compute.path)} is in no datacenter that this user can see")
    return at


def _folder(known: Survey, wanted: str, datacenter: str) -> Thing:
    root = known.folders[known.vm_folders[datacenter]]
    if not wanted:
        return root
    inside = [one for one in known.folders.values() if f"{one.path}/".startswith(f"{root.path}/")]
    path = wanted.rstrip("/")
    absolute = path if path.startswith("/") else f"{root.path}/{path}"
    for folder in inside:
        if absolute == folder.path:
            return folder
    raise InvalidInput(f"there is no folder {shown(wanted)}; known: {_listed(one.path for one in inside)}")


def one_of(what: str, wanted: str, known: Iterable[K], where: str = "") -> K:
    """By id, path or name. Raises InvalidInput that lists them, Conflict with the paths when several match."""
    things = list(known)
    matches = [one for one in things if wanted in (one.id, one.path)] or [one for one in things if one.name == wanted]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise Conflict(
            f"{len(matches)} things are called {shown(wanted)} as {what}; name one by path or id: "
            + _listed(f"{one.path} ({one.id})" for one in matches)
        )
    raise InvalidInput(f"there is no {what} {shown(wanted)} {where}; known: {_listed(one.path for one in things)}")


def _listed(names: Iterable[str]) -> str:
    some = sorted(names)
    more = f" and {len(some) - MAX_LISTED} more" if len(some) > MAX_LISTED else ""
    return (", ".join(shown(name) for name in some[:MAX_LISTED]) or "none") + more
