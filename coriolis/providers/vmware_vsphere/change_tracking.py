"""Changed block tracking: turned on with care, its change ids kept with the machine, its answers read to the end.

``changeTrackingEnabled`` and ``QueryChangedDiskAreas`` (vSphere Web Services API, VirtualMachine). A change id reads
``<uuid>/<number>``: another uuid means that tracking was reset and says nothing about the time before. The ids of a
snapshot are kept in the machine's extra configuration, so that whichever agent makes the next pass finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyVmomi import vim, vmodl

from coriolis.errors import ChangeLogLost, Corrupt
from coriolis.model.disk import Extent, ExtentKind
from coriolis.providers.vmware_vsphere.properties import some
from coriolis.providers.vmware_vsphere.tasks import run

KEY_PREFIX = "coriolis.change."
ALLOCATED = "*"
MAX_ANSWERS = 100_000
"""One answer covers at least a few blocks; a server that does not move on is stopped long before."""
MAX_ID_CHARS = 200
_NO_LOG = (
    vmodl.fault.InvalidArgument,
    vim.fault.FileFault,
    vmodl.fault.NotSupported,
    vmodl.fault.MethodNotFound,
)


def uuid_of(change_id: str) -> str:
    """What stays the same as long as tracking was not reset."""
    return change_id.rpartition("/")[0]


def comparable(base: str, now: str) -> bool:
    """Whether the log from ``base`` to ``now`` is one."""
    return bool(base) and bool(now) and uuid_of(base) == uuid_of(now)


def enable(content: Any, vm: Any) -> bool:
    """Turn tracking on where it is off and safe to turn on: no snapshots, hardware that can. Blocking.

    False when nothing was done. The caller then lets the machine pause once, for tracking begins with that.
    """
    # not the current snapshot: there is none while the machine's state is at the root of a tree of them
    paths = ["capability.changeTrackingSupported", "config.changeTrackingEnabled", "snapshot.rootSnapshotList"]
    values = next(some(content, [vm], paths))[1]
    if (
        values.get("config.changeTrackingEnabled")
        or not values.get("capability.changeTrackingSupported", True)
        or values.get("snapshot.rootSnapshotList")
    ):
        return False
    run(content, lambda: vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))
    return True


# -- change ids kept with the machine --------------------------------------------------------------------------------


def keep(content: Any, vm: Any, name: str, ids: Mapping[str, str]) -> None:
    """Remember the change ids (by disk id) of the snapshot ``name``. Blocking."""
    kept = json.dumps(dict(sorted(ids.items())))
    if _extra(content, vm).get(KEY_PREFIX + name) != kept:
        _set(content, vm, KEY_PREFIX + name, kept)


def kept(content: Any, vm: Any, name: str) -> dict[str, str]:
    """The change ids of the snapshot ``name``; empty when they are not known. Blocking."""
    text = _extra(content, vm).get(KEY_PREFIX + name, "")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(disk): str(one)[:MAX_ID_CHARS] for disk, one in found.items()}


def forget(content: Any, vm: Any, name: str) -> None:
    """Blocking; nothing when nothing was kept."""
    if _extra(content, vm).get(KEY_PREFIX + name):
        _set(content, vm, KEY_PREFIX + name, "")  # an empty value removes the key


def names_kept(content: Any, vm: Any) -> list[str]:
    """Of the snapshots whose change ids are kept."""
    extra = _extra(content, vm)
    return sorted(key.removeprefix(KEY_PREFIX) for key, value in extra.items() if key.startswith(KEY_PREFIX) and value)


def _extra(content: Any, vm: Any) -> dict[str, str]:
    options = next(some(content, [vm], ["config.extraConfig"]))[1].get("config.extraConfig") or ()
    return {str(one.key): str(one.value) for one in options}


def _set(content: Any, vm: Any, key: str, value: str) -> None:
    option = vim.option.OptionValue(key=key, value=value)
    run(content, lambda: vm.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[option])))


# -- areas ------------------------------------------------------------------------------------------------------------


def areas(vm: Any, snapshot: Any, device_key: int, change_id: str, start: int, size: int) -> Iterator[Extent]:
    """Changed areas from ``start`` to ``size``, increasing and disjoint; allocated ones for ``*``. Blocking.

    Raises ChangeLogLost when the server has no log from that id on.
    """
    position, last = start, start
    for _ in range(MAX_ANSWERS):
        if position >= size:
            return
        try:
            answer = vm.QueryChangedDiskAreas(
                snapshot=snapshot, deviceKey=device_key, startOffset=position, changeId=change_id
            )
        except (
            vmodl.fault.InvalidArgument,
            vim.fault.FileFault,
            vmodl.fault.NotSupported,
            vmodl.fault.MethodNotFound,
        ) as fault:
            said = str(getattr(fault, "msg", "") or type(fault).__name__)[:200]
            raise ChangeLogLost(f"the change log from {change_id[:MAX_ID_CHARS]} cannot be read: {said}") from fault
        covered = int(answer.startOffset) + int(answer.length)
        for area in answer.changedArea or ():
            begin, end = max(int(area.start), last), min(int(area.start) + int(area.length), size)
            if begin < end:
                yield Extent(begin, end - begin)
                last = end
        if covered <= position:
            raise Corrupt(f"the change log does not get beyond {position} of {size} bytes")
        position = covered
    raise Corrupt(f"the change log did not end in {MAX_ANSWERS} answers")


def with_holes(data: Iterable[Extent], start: int, size: int) -> Iterator[Extent]:
    """The same with holes between, without gaps from ``start`` to ``size``."""
    position = start
    for extent in data:
        if extent.offset > position:
            yield Extent(position, extent.offset - position, ExtentKind.HOLE)
        yield extent
        position = extent.end
    if position < size:
        yield Extent(position, size - position, ExtentKind.HOLE)
