"""Snapshots of virtual machines: made under the caller's name, found again by it, always removed.

The tree of snapshots is read through the PropertyCollector, for some servers fail on ``vm.snapshot`` of a machine that
has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from pyVmomi import vim, vmodl

from coriolis.errors import Conflict, NotFound, Unavailable
from coriolis.providers.vmware_vsphere.machine_spec import disks_of, kind_of, size_of
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.tasks import let_end, run

PREFIX = "coriolis-"
MAX_SNAPSHOTS = 64
CREATION = "VirtualMachine.createSnapshot"
_RESTLESS = (vim.fault.SnapshotFault, vim.fault.VmConfigFault, vim.fault.ToolsUnavailable)
"""How a quiesced snapshot may end when the guest does not come to rest: the API's reference names no one fault for it.
Whatever else they mean, a snapshot that is not quiesced meets as well."""
_SNAPSHOTS = "snapshot.rootSnapshotList"


class FrozenDisk(msgspec.Struct, frozen=True):
    """A disk as a snapshot holds it. ``file``: ``[datastore] folder/disk.vmdk``; ``change_id`` empty without CBT.

    ``chained``: the file is a link of a chain, it holds only what changed since another one. ``kind``: as in ``Disk``.
    """

    disk_id: str
    size_bytes: int
    file: str
    change_id: str
    chained: bool = False
    kind: str = ""


class FrozenMachine(msgspec.Struct, frozen=True):
    """``snapshot``: managed object id, empty for a machine that is off. ``state``: differs when the content might."""

    machine: str
    snapshot: str
    state: str
    disks: tuple[FrozenDisk, ...]

    @property
    def identity(self) -> str:
        """Changes with the snapshot and with what each disk had seen."""
        changes = ",".join(f"{disk.file}={disk.change_id}" for disk in self.disks)
        return f"{self.snapshot or 'off'}/{self.state}/{changes}"

    def disk(self, disk_id: str) -> FrozenDisk:
        """Raises NotFound."""
        for disk in self.disks:
            if disk.disk_id == disk_id:
                return disk
        raise NotFound(f"the machine has no disk {disk_id[:40]!r}")


def machine(content: Any, instance_id: str) -> Any:
    """The machine of a managed object id. Raises NotFound."""
    found = vim.VirtualMachine(instance_id, content.rootFolder._stub)
    try:
        next(some(content, [found], ["name"]))
    except (vmodl.fault.ManagedObjectNotFound, StopIteration) as error:
        raise NotFound(f"there is no virtual machine {instance_id[:100]!r}") from error
    return found


def reference(content: Any, snapshot: str) -> Any:
    """The snapshot of a managed object id, unchecked."""
    return vim.vm.Snapshot(snapshot, content.rootFolder._stub)


def roots(content: Any, vm: Any) -> list[Any]:
    """The snapshots that have no parent, with their trees."""
    return list(next(some(content, [vm], [_SNAPSHOTS]), (None, {}))[1].get(_SNAPSHOTS) or ())


def depth(standing: Sequence[Any]) -> int:
    """Of the longest chain among trees of snapshots, without those that are ours."""
    deepest, level = 0, list(standing)
    while level and deepest <= MAX_SNAPSHOTS:
        deepest += any(not one.name.startswith(PREFIX) for one in level)
        level = [child for one in level for child in one.childSnapshotList or ()]
    return deepest


def tree(content: Any, vm: Any) -> list[Any]:
    """All snapshots of a machine, parents first. Raises Conflict beyond 64, which no machine can have."""
    found: list[Any] = []
    waiting = roots(content, vm)
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
    let_end(content, vm, CREATION)
    standing = by_name(tree(content, vm), name)
    if standing is None:
        text = "Made by Coriolis to read the disks; removed when they were read."
        quiet = _can_quiesce(content, vm)
        try:
            run(content, lambda: vm.CreateSnapshot_Task(name=name, description=text, memory=False, quiesce=quiet))
        except _RESTLESS:
            if not quiet:
                raise
            run(content, lambda: vm.CreateSnapshot_Task(name=name, description=text, memory=False, quiesce=False))
        standing = by_name(tree(content, vm), name)
        if standing is None:
            raise Conflict(f"the snapshot {name} was removed by somebody else as soon as it was made")
    return frozen(content, instance_id, standing)


def frozen(content: Any, instance_id: str, standing: Any) -> FrozenMachine:
    """What a snapshot of the tree holds."""
    values = next(some(content, [standing.snapshot], ["config.hardware.device"]))[1]
    disks = frozen_disks(values.get("config.hardware.device"))
    return FrozenMachine(instance_id, str(standing.snapshot._moId), standing.createTime.isoformat(), disks)


def frozen_disks(devices: Sequence[Any] | None) -> tuple[FrozenDisk, ...]:
    """Raises Unavailable when there is no list of devices: as long as a machine is out of reach, nobody knows them."""
    if devices is None:
        raise Unavailable("vSphere does not know the machine's disks now: are its host and its datastore reachable?")
    return tuple(
        FrozenDisk(
            disk_id=str(device.key),
            size_bytes=size_of(device),
            file=getattr(device.backing, "fileName", "") or "",
            change_id=getattr(device.backing, "changeId", "") or "",
            chained=getattr(device.backing, "parent", None) is not None,
            kind=kind_of(device),
        )
        for device in disks_of(devices)
    )


def remove(content: Any, instance_id: str, name: str) -> None:
    """Remove every snapshot of that name and merge its changes; nothing when there is none. Blocking.

    One that a dead agent asked for may still be made: it is waited for, or it would stay for ever.
    """
    try:
        vm = machine(content, instance_id)
    except NotFound:
        return
    let_end(content, vm, CREATION)
    for taken in [one.snapshot for one in tree(content, vm) if one.name == name]:
        try:
            run(content, partial(taken.RemoveSnapshot_Task, removeChildren=False, consolidate=True))
        except vmodl.fault.ManagedObjectNotFound:
            continue  # somebody else was quicker


def names(content: Any, instance_id: str) -> list[str]:
    """Of our snapshots on the machine."""
    found = tree(content, machine(content, instance_id))
    return sorted({one.name for one in found if one.name.startswith(PREFIX)})


def _can_quiesce(content: Any, vm: Any) -> bool:
    values = next(some(content, [vm], ["runtime.powerState", "guest.toolsRunningStatus"]))[1]
    on = str(values.get("runtime.powerState")) == "poweredOn"
    return on and str(values.get("guest.toolsRunningStatus")) == "guestToolsRunning"
