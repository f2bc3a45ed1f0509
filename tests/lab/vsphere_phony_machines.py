"""The bytes behind the machines of a simulated site: which disk lies where, what each snapshot froze, what was tracked.

Inventory, power and the tree of snapshots are vcsim's; bytes, deltas and change tracking are ours. One lock for all:
a snapshot freezes every disk of its machine at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyVmomi import vim, vmodl

from tests.lab.vcsim import Simulator
from tests.lab.vsphere_phony_disks import PhonyDisk, whole_blocks

TASK_TIMEOUT_S = 60.0
_COPY = 1 << 20


class PhonyFault(Exception):
    """To be answered as a fault of the API. ``inner``: XML of its fields."""

    def __init__(self, name: str, text: str, inner: str = "") -> None:
        super().__init__(text)
        self.name, self.text, self.inner = name, text, inner


@dataclass
class Moment:
    """A standing snapshot: change ids and sizes by disk key."""

    snapshot: str
    changes: dict[int, tuple[str, int]]
    sizes: dict[int, int]


@dataclass
class Machine:
    id: str
    disks: dict[int, PhonyDisk] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    """Oldest first: the place of one is the depth of its view."""
    tracked: bool = False
    """What the machine's configuration says; disks follow with the next stun."""

    def depth(self, snapshot: str | None) -> int:
        """Of the view of a snapshot, or of the present. Raises KeyError when the snapshot is gone."""
        if snapshot is None:
            return len(self.moments)
        for at, moment in enumerate(self.moments):
            if moment.snapshot == snapshot:
                return at
        raise KeyError(snapshot)


class Machines:
    """``content``: of an administrator's session straight at vcsim, which no fault of the lab meets."""

    def __init__(self, simulator: Simulator, content: Any) -> None:
        self._simulator, self._content = simulator, content
        self._known: dict[str, Machine] = {}
        self.lock = threading.RLock()
        self.max_areas, self.max_span, self.over_report = 16, 256 << 20, 0
        """Of one answer of QueryChangedDiskAreas; blocks reported beyond each end of what changed."""

    # vcsim

    def properties(self, one: Any, *paths: str) -> dict[str, Any]:
        """Leaf properties of one object that are set. Raises vmodl faults."""
        spec = vmodl.query.PropertyCollector
        wanted = spec.FilterSpec(
            objectSet=[spec.ObjectSpec(obj=one, skip=False)],
            propSet=[spec.PropertySpec(type=type(one), pathSet=list(paths))],
        )
        found = self._content.propertyCollector.RetrievePropertiesEx([wanted], spec.RetrieveOptions())
        return {value.name: value.val for value in found.objects[0].propSet} if found and found.objects else {}

    def wait(self, task: Any) -> Any:
        """The result. Raises the task's fault."""
        until = time.monotonic() + TASK_TIMEOUT_S
        while time.monotonic() < until:
            info = self.properties(task, "info.state", "info.result", "info.error")
            if info["info.state"] == "success":
                return info.get("info.result")
            if info["info.state"] == "error":
                raise info["info.error"]
            time.sleep(0.003)
        raise TimeoutError(f"vcsim did not end {task._moId}")

    def object(self, kind: type, identity: str) -> Any:
        return kind(identity, self._content.rootFolder._stub)

    def all(self, kind: type) -> list[Any]:
        """Of the inventory."""
        view = self._content.viewManager.CreateContainerView(self._content.rootFolder, [kind], True)
        try:
            return list(view.view)
        finally:
            view.Destroy()

    # machines

    def machine(self, identity: str) -> Machine:
        """With its disks as vcsim lists them now."""
        with self.lock:
            found = self._known.setdefault(identity, Machine(identity))
            values = self.properties(
                self.object(vim.VirtualMachine, identity), "config.hardware.device", "config.changeTrackingEnabled"
            )
            listed = {}
            for device in values.get("config.hardware.device") or ():
                if isinstance(device, vim.vm.device.VirtualDisk) and hasattr(device.backing, "changeId"):
                    listed[device.key] = device
            for key, device in listed.items():
                if key not in found.disks:
                    name = device.backing.fileName
                    found.disks[key] = PhonyDisk(key, name, self.path(name), device.capacityInBytes)
                elif device.capacityInBytes > found.disks[key].size:
                    found.disks[key].grow(device.capacityInBytes)
            for key in set(found.disks) - set(listed):
                found.disks.pop(key).forget()
            found.tracked = bool(values.get("config.changeTrackingEnabled"))
            if not found.tracked:
                for disk in found.disks.values():
                    disk.untrack()
            return found

    def path(self, name: str) -> Path:
        """Where the file ``[datastore] folder/name`` lies."""
        datastore, _, path = name.removeprefix("[").partition("] ")
        for one in self.all(vim.Datastore):
            values = self.properties(one, "name", "summary.url")
            if values["name"] == datastore:
                return Path(values["summary.url"]) / path
        raise ValueError(f"there is no datastore {datastore}")

    def forget(self, identity: str) -> None:
        with self.lock:
            gone = self._known.pop(identity, None)
            for disk in gone.disks.values() if gone else ():
                disk.forget()

    def by_file(self, datastore: str, path: str) -> tuple[Machine, PhonyDisk, int] | None:
        """Whose file a datastore's path is, and the depth of its view: a flat file's is 0, a delta's its number."""
        name = f"[{datastore}] {path}".replace("-flat.vmdk", ".vmdk").replace("-delta.vmdk", ".vmdk")
        with self.lock:
            for machine in self._known.values():
                for disk in machine.disks.values():
                    names = disk.names(len(disk.deltas))[::-1]
                    if name in names:
                        return machine, disk, names.index(name)
        return None

    # snapshots

    def froze(self, identity: str, snapshot: str) -> None:
        """vcsim has made a snapshot; the caller has held ``lock`` since before."""
        machine = self.machine(identity)
        changes = {key: (disk.epoch, disk.moment + 1) for key, disk in machine.disks.items() if disk.epoch}
        machine.moments.append(Moment(snapshot, changes, {key: disk.size for key, disk in machine.disks.items()}))
        for disk in machine.disks.values():
            disk.freeze()
        if len(machine.moments) == 1:
            self.stunned(machine)
        self.tell(machine)

    def removed(self, machine: Machine, snapshots: list[str]) -> None:
        """vcsim has removed these; the caller has held ``lock`` since before."""
        for one in sorted(snapshots, key=machine.depth, reverse=True):
            depth = machine.depth(one)
            del machine.moments[depth]
            for disk in machine.disks.values():
                if len(disk.deltas) > depth:
                    disk.merge(depth)
        if not machine.moments:
            self.stunned(machine)
            for disk in machine.disks.values():
                for left in disk.descriptor.parent.glob("*-Snapshot*.vmsn"):
                    left.unlink(missing_ok=True)
        self.tell(machine)

    def owner(self, snapshot: str) -> Machine | None:
        with self.lock:
            for machine in self._known.values():
                if any(moment.snapshot == snapshot for moment in machine.moments):
                    return machine
        return None

    def stunned(self, machine: Machine) -> None:
        """Tracking that was asked for begins. The snapshot that stuns has no change ids yet."""
        if machine.tracked:
            for disk in machine.disks.values():
                if not disk.epoch:
                    disk.track()

    def tell(self, machine: Machine) -> None:
        """vcsim states the files and change ids from now on."""
        present = {key: (disk.epoch, disk.moment) for key, disk in machine.disks.items() if disk.epoch}
        self._tell("VirtualMachine", machine.id, machine, len(machine.moments), present)
        for depth, moment in enumerate(machine.moments):
            self._tell("VirtualMachineSnapshot", moment.snapshot, machine, depth, moment.changes)

    def _tell(
        self, kind: str, identity: str, machine: Machine, depth: int, changes: dict[int, tuple[str, int]]
    ) -> None:
        disks = [
            {
                "key": key,
                "files": disk.names(depth),
                "change_id": "{}/{}".format(*changes[key]) if key in changes else "",
            }
            for key, disk in machine.disks.items()
        ]
        self._simulator.command("backings", type=kind, id=identity, disks=disks)

    def read(self, machine: Machine, disk: PhonyDisk, snapshot: str | None, offset: int, length: int) -> bytes:
        with self.lock:
            return disk.read(machine.depth(snapshot), offset, length)

    def pieces(self, machine: Machine, disk: PhonyDisk, snapshot: str | None = None) -> Iterator[bytes]:
        """A whole disk."""
        for at in range(0, disk.size, _COPY):
            yield self.read(machine, disk, snapshot, at, min(_COPY, disk.size - at))

    # change tracking

    def changed_areas(
        self, identity: str, snapshot: str | None, key: int, start: int, change_id: str
    ) -> tuple[int, list[tuple[int, int]]]:
        """(length that the answer covers from ``start``, areas as (start, length)). Raises PhonyFault.

        vSphere Web Services API, VirtualMachine.QueryChangedDiskAreas: NotFound for a snapshot that is none,
        InvalidArgument for a device key or offset or change id that cannot be, FileFault when the files of the disk
        cannot be asked, which is what a change id from before a reset meets.
        """
        with self.lock:
            machine = self._known.get(identity) or self.machine(identity)
            try:
                depth = machine.depth(snapshot)
            except KeyError as error:
                raise PhonyFault(
                    "ManagedObjectNotFound", "The object has already been deleted", _object(snapshot)
                ) from error
            disk = machine.disks.get(key)
            if disk is None:
                raise _wrong("deviceKey")
            moment = machine.moments[depth] if depth < len(machine.moments) else None
            size = moment.sizes.get(key, disk.size) if moment else disk.size
            if not 0 <= start < size:
                raise _wrong("startOffset")
            epoch, until = moment.changes.get(key, ("", 0)) if moment else (disk.epoch, disk.moment + 1)
            if not epoch or epoch != disk.epoch:
                raise _file_fault(disk.names(depth)[0])
            if change_id == "*":
                found = disk.allocated(depth)
            else:
                past, _, since = change_id.rpartition("/")
                if not past or not since.isdigit():
                    raise _wrong("changeId")
                if past != epoch:
                    raise _file_fault(disk.names(depth)[0])
                if int(since) > until:
                    raise _wrong("changeId")
                found = disk.changed(int(since), until)
            if self.over_report:
                found = whole_blocks(found, size, self.over_report)
            return _one_answer(found, start, size, self.max_areas, self.max_span)


def _one_answer(
    found: list[tuple[int, int]], start: int, size: int, max_areas: int, max_span: int
) -> tuple[int, list[tuple[int, int]]]:
    end = min(size, start + max_span)
    areas = [(max(low, start), min(high, end)) for low, high in found if high > start and low < end]
    if len(areas) > max_areas:
        areas = areas[:max_areas]
        end = areas[-1][1]
    return end - start, [(low, high - low) for low, high in areas]


def _wrong(name: str) -> PhonyFault:
    text = f"A specified parameter was not correct: {name}"
    return PhonyFault("InvalidArgument", text, f"<invalidProperty>{name}</invalidProperty>")


def _file_fault(name: str) -> PhonyFault:
    return PhonyFault("FileFault", f"Error caused by file {name}", f"<file>{name}</file>")


def _object(snapshot: str | None) -> str:
    return f'<obj type="VirtualMachineSnapshot">{snapshot}</obj>'
