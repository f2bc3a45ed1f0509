"""Machines that are off, and templates: read as they are, without a snapshot.

ESXi refuses to hand out the flat extents of a snapshot chain, but not those of a machine that is off. Nothing holds
such a machine back from being started, so its state tells what would have changed it: the files of its disks and the
last time it was powered on. Who compares the state before and after reading knows that the disks stood still.
"""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from coriolis.errors import Conflict
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.snapshots import FrozenMachine, frozen_disks, machine

POWERED_ON = ("VmPoweredOnEvent", "DrsVmPoweredOnEvent", "VmRestartedOnAlternateHostEvent")
"""A vCenter goes by exact names: in a cluster with DRS only the second one is written."""
MAX_EVENTS = 100
_PATHS = ["runtime.powerState", "config.hardware.device"]


def is_off(content: Any, instance_id: str) -> bool:
    """Whether the machine is powered off or a template. Blocking. Raises NotFound."""
    values = next(some(content, [machine(content, instance_id)], ["runtime.powerState"]))[1]
    return str(values.get("runtime.powerState")) == "poweredOff"


def is_template(content: Any, instance_id: str) -> bool:
    """Of a template no snapshot can be made. Blocking. Raises NotFound."""
    values = next(some(content, [machine(content, instance_id)], ["config.template"]))[1]
    return bool(values.get("config.template"))


def hold(content: Any, instance_id: str) -> FrozenMachine:
    """The disks of a machine that is off. Blocking. Raises Conflict when it runs, NotFound, Unavailable."""
    vm = machine(content, instance_id)
    values = next(some(content, [vm], _PATHS))[1]
    if str(values.get("runtime.powerState")) != "poweredOff":
        raise Conflict(f"machine {instance_id} was started while its disks were read as those of a stopped one")
    return FrozenMachine(instance_id, "", last_start(content, vm), frozen_disks(values.get("config.hardware.device")))


def last_start(content: Any, vm: Any) -> str:
    """Identifies the last time the machine was powered on, as far as the endpoint remembers."""
    chosen = vim.event.EventFilterSpec(
        entity=vim.event.EventFilterSpec.ByEntity(entity=vm, recursion="self"),
        eventTypeId=list(POWERED_ON),
        maxCount=MAX_EVENTS,
    )
    events = content.eventManager.QueryEvents(chosen) or []
    newest = max(((event.createdTime, event.key) for event in events[-MAX_EVENTS:]), default=None)
    return f"{newest[0].isoformat()}#{newest[1]}" if newest else "never"
