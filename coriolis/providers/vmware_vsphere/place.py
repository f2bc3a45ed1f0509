"""Where a machine's disks are: what a transport must know besides the disk."""

from __future__ import annotations

from typing import Any

import msgspec
from pyVmomi import vim

from coriolis.errors import NotFound
from coriolis.providers.vmware_vsphere.machine_spec import plain_name
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.snapshots import machine

MAX_DEPTH = 64


class Place(msgspec.Struct, frozen=True):
    """``datacenter``: inventory path without the leading slash. ``datastores``: type (``VMFS``, ``vsan``) by name."""

    datacenter: str
    host: str
    datastores: dict[str, str]


def place_of(content: Any, instance_id: str) -> Place:
    """Blocking. Raises NotFound."""
    vm = machine(content, instance_id)
    values = next(some(content, [vm], ["parent", "runtime.host", "datastore"]))[1]
    types = {
        plain_name(found["summary.name"]): str(found.get("summary.type") or "")
        for _, found in some(content, list(values.get("datastore") or ()), ["summary.name", "summary.type"])
    }
    host = values.get("runtime.host")
    name = next(some(content, [host], ["name"]))[1].get("name", "") if host is not None else ""
    return Place(_datacenter(content, values.get("parent") or _pool_parent(content, vm)), str(name), types)


def _pool_parent(content: Any, vm: Any) -> Any:
    """For machines of a vApp, which are in no folder."""
    return next(some(content, [vm], ["resourcePool"]))[1].get("resourcePool")


def _datacenter(content: Any, above: Any) -> str:
    parts: list[str] = []
    for _ in range(MAX_DEPTH):
        if above is None:
            break
        values = next(some(content, [above], ["name", "parent"]))[1]
        if parts or isinstance(above, vim.Datacenter):
            parts.append(plain_name(values["name"]))
        above = values.get("parent")
    if not parts:
        raise NotFound("the machine is in no datacenter")
    return "/".join(reversed(parts[:-1] if len(parts) > 1 else parts))
