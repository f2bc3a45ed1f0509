"""Networks and datastores of an endpoint as a survey tells them: kinds, VLANs, sizes.

Types: vSphere Web Services API (VmwareDistributedVirtualSwitchVlanSpec and its kinds, HostPortGroupSpec.vlanId).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyVmomi import vim

from coriolis.model.network import CloudConfiguration, Network, StorageType
from coriolis.providers.vmware_vsphere.machine_spec import plain_name
from coriolis.providers.vmware_vsphere.properties import all_of, ids_of, some

STANDARD, DISTRIBUTED, OPAQUE = "standard", "distributed", "opaque"
"""Kinds of networks."""
MAX_HOSTS = 64
"""Asked for their standard port groups, which hosts of a cluster have alike: each tells some tens of KiB."""
TRUNK_ALL, UNTAGGED = "4095", "none"
"""vlanId of a standard port group that lets every VLAN through; what is said of one that tags nothing."""

_Vlan = vim.dvs.VmwareDistributedVirtualSwitch


def configuration(content: Any) -> CloudConfiguration:
    """Blocking; some six calls whatever the endpoint's size."""
    key = _by_name
    return CloudConfiguration(tuple(sorted(_networks(content), key=key)), (), tuple(sorted(_stores(content), key=key)))


def _by_name(one: Network | StorageType) -> tuple[str, str]:
    return one.name, one.id


def _networks(content: Any) -> list[Network]:
    paths = ["name", "config.defaultPortConfig"]
    ports = {
        str(one._moId): vlan_of(values.get("config.defaultPortConfig"))
        for one, values in all_of(content, vim.dvs.DistributedVirtualPortgroup, paths)
    }
    named = [(one, plain_name(values["name"])) for one, values in all_of(content, vim.Network, ["name"])]
    standard = _standard_vlans(content, {str(one._moId): name for one, name in named})
    found = []
    for one, name in named:
        identity = str(one._moId)
        if identity in ports:
            found.append(Network(name, identity, kind=DISTRIBUTED, vlan=ports[identity]))
        elif isinstance(one, vim.OpaqueNetwork):
            found.append(Network(name, identity, kind=OPAQUE))
        else:
            found.append(Network(name, identity, kind=STANDARD, vlan=standard.get(identity, "")))
    return found


def vlan_of(port_config: Any) -> str:
    """Of a distributed port group's defaults: ``12``, ``none``, the ranges of a trunk; empty where it is unknown."""
    vlan = getattr(port_config, "vlan", None)
    if isinstance(vlan, _Vlan.TrunkVlanSpec):
        ranges = sorted((one.start, one.end) for one in vlan.vlanId)
        return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    if isinstance(vlan, _Vlan.PvlanSpec):
        return f"private {vlan.pvlanId}"
    if isinstance(vlan, _Vlan.VlanIdSpec):
        return str(vlan.vlanId) if vlan.vlanId else UNTAGGED
    return ""


def _standard_vlans(content: Any, names: Mapping[str, str]) -> dict[str, str]:
    """By managed object id, as ``names`` are: where hosts differ, each one's."""
    stub = content.rootFolder._stub
    hosts = [vim.HostSystem(one, stub) for one in ids_of(content, vim.HostSystem)[:MAX_HOSTS]]
    seen: dict[str, set[str]] = {}
    for _, values in some(content, hosts, ["network", "config.network.portgroup"]):
        vlans = host_vlans(values.get("config.network.portgroup") or ())
        for network in values.get("network") or ():
            identity = str(network._moId)
            if (name := names.get(identity, "")) in vlans:
                seen.setdefault(identity, set()).add(vlans[name])
    return {identity: ", ".join(sorted(vlans)) for identity, vlans in seen.items()}


def host_vlans(port_groups: Iterable[Any]) -> dict[str, str]:
    """By the name of a host's standard port group."""
    found = {}
    for one in port_groups:
        vlan = str(one.spec.vlanId)
        found[plain_name(one.spec.name)] = {"0": UNTAGGED, TRUNK_ALL: "0-4094"}.get(vlan, vlan)
    return found


def _stores(content: Any) -> list[StorageType]:
    members = ("type", "capacity", "freeSpace", "accessible", "maintenanceMode")
    paths = ["name", *(f"summary.{member}" for member in members)]
    return [store_of(str(one._moId), values) for one, values in all_of(content, vim.Datastore, paths)]


def store_of(identity: str, values: dict[str, Any]) -> StorageType:
    """``values``: properties of a datastore. Sizes of one that is out of reach are not true, and left out."""
    accessible = bool(values.get("summary.accessible", True))
    return StorageType(
        plain_name(values["name"]),
        identity,
        kind=str(values.get("summary.type") or ""),
        capacity_bytes=_bytes(values.get("summary.capacity")) if accessible else None,
        free_bytes=_bytes(values.get("summary.freeSpace")) if accessible else None,
        usable=accessible and values.get("summary.maintenanceMode", "normal") == "normal",
    )


def _bytes(told: Any) -> int | None:
    """A plain int: pyVmomi's own kind of it is none that JSON takes."""
    return None if told is None else int(told)
