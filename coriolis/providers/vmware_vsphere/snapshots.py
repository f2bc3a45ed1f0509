"""Snapshots of virtual machines: made under the caller's name, found again by it, always removed.

The tree of snapshots is read through the PropertyCollector, for some servers fail on ``vm.snapshot`` of a machine that
has none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec
from pyVmomi import vim, vmodl

from coriolis.errors import Conflict, NotFound, TimedOut
from coriolis.providers.vmware_vsphere.machine_spec import disks_of
from coriolis.providers.vmware_vsphere.properties import some

PREFIX = "coriolis-"
TASK_TIMEOUT_S = 1800.0
"""Removing a snapshot of a busy machine consolidates its disks, which may take long."""
POLL_S = 0.5
MAX_SNAPSHOTS = 64
_SNAPSHOTS = "snapshot.rootSnapshotList"


class FrozenDisk(msgspec.Struct, frozen=True):
    """A disk as a snapshot holds it. ``file``: ``[datastore] folder/disk.vmdk``; ``change_id`` empty without CBT."""

    disk_id: str
    size_bytes: int
    file: str
    change_id: str


class FrozenMachine(msgspec.Struct, frozen=True):
    """``snapshot``: managed object id."""

    snapshot: str
    created: str
    disks: tuple[FrozenDisk, ...]

    @property
    def identity(self) -> str:
        """Changes with the snapshot and with what each disk had seen."""
        changes = ",".join(disk.change_id for disk in self.disks)
        return f"{self.snapshot}/{self.created}/{changes}"


def machine(content: Any, instance_id: str) -> Any:
    """The machine of a managed object id. Raises NotFound."""
    found = vim.VirtualMachine(instance_id, content.rootFolder._stub)
    try:
        next(some(content, [found], ["name"]))
    except (vmodl.fault.ManagedObjectNotFound, StopIteration) as error:
        raise NotFound(f"there is no virtual machine {instance_id[:100]!r}") from error
    return found


def tree(content: Any, vm: Any) -> list[Any]:
    """All snapshots of a machine, parents first. Raises Conflict beyond 64, which no machine can have."""
    values = next(some(content, [vm], [_SNAPSHOTS]), (None, {}))[1]
    found: list[Any] = []
    waiting = list(values.get(_SNAPSHOTS) or ())
    while waiting:
        one = waiting.pop(0)
        found.append(one)
        waiting += list(one.childSnapshotList or ())
        if len(found) > MAX_SNAPSHOTS:
            raise Conflict("the machine has more than 64 snapshots: remove old ones")
    return found


def by_name(snapshots: Iterable[Any], name: str) -> Any | None:
    return next((one for one in snapshots if one.name == name), None)


def create(content: Any, instance_id: str, name: str) -> FrozenMachine:
    """Freeze all disks, quiesced where the guest's tools can; the one of that name if it stands. Blocking."""
    vm = machine(content, instance_id)
    standing = by_name(tree(content, vm), name)
    if standing is None:
        text = "Made by Coriolis to read the disks; removed when they were read."
        try:
            wait(
                content, vm.CreateSnapshot_Task(name=name, description=text, memory=False, quiesce=_is_on(content, vm))
            )
        except (vim.fault.ApplicationQuiesceFault, vim.fault.FilesystemQuiesceFault, vim.fault.ToolsUnavailable):
            wait(content, vm.CreateSnapshot_Task(name=name, description=text, memory=False, quiesce=False))
        standing = by_name(tree(content, vm), name)
        if standing is None:
            raise Conflict(f"the snapshot {name} was removed by somebody else as soon as it was made")
    return frozen(content, standing)


def frozen(content: Any, standing: Any) -> FrozenMachine:
    """What a snapshot of the tree holds."""
    values = next(some(content, [standing.snapshot], ["config.hardware.device"]))[1]
    disks = tuple(
        FrozenDisk(
            disk_id=str(device.key),
            size_bytes=int(device.capacityInBytes or (device.capacityInKB or 0) * 1024),
            file=getattr(device.backing, "fileName", "") or "",
            change_id=getattr(device.backing, "changeId", "") or "",
        )
        for device in disks_of(values["config.hardware.device"])
    )
    return FrozenMachine(str(standing.snapshot._moId), standing.createTime.isoformat(), disks)


def remove(content: Any, instance_id: str, name: str) -> None:
    """Remove every snapshot of that name and merge its changes; nothing when there is none. Blocking."""
    try:
        vm = machine(content, instance_id)
    except NotFound:
        return
    for standing in [one for one in tree(content, vm) if one.name == name]:
        try:
            wait(content, standing.snapshot.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
        except vmodl.fault.ManagedObjectNotFound:
            continue  # somebody else was quicker


def names(content: Any, instance_id: str) -> list[str]:
    """Of our snapshots on the machine."""
    found = tree(content, machine(content, instance_id))
    return sorted({one.name for one in found if one.name.startswith(PREFIX)})


def wait(content: Any, task: Any) -> Any:
    """The task's result. Blocking; raises its fault, TimedOut."""
    deadline = time.monotonic() + TASK_TIMEOUT_S
    while time.monotonic() < deadline:
        values = next(some(content, [task], ["info.state"]))[1]
        state = str(values.get("info.state", ""))
        if state == "success":
            return next(some(content, [task], ["info.result"]))[1].get("info.result")
        if state == "error":
            raise next(some(content, [task], ["info.error"]))[1]["info.error"]
        time.sleep(POLL_S)
    raise TimedOut(f"a task of vSphere did not end within {TASK_TIMEOUT_S:.0f} s; it goes on there")


def _is_on(content: Any, vm: Any) -> bool:
    values = next(some(content, [vm], ["runtime.powerState"]))[1]
    return str(values.get("runtime.powerState")) == "poweredOn"
