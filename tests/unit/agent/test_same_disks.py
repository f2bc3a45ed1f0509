"""A pass refuses a machine whose disks are not those that the volumes were made for."""

from __future__ import annotations

import pytest

from coriolis.agent.replicate_source import check_same_disks
from coriolis.errors import Conflict
from coriolis.model.disk import Snapshot, SnapshotDisk
from coriolis.model.machine import Devices, Disk, MachineSpec

SPEC = MachineSpec("vm-1", "web", 1, 512, devices=Devices(disks=(Disk("a", 100), Disk("b", 200))))


def snapshot(**sizes: int) -> Snapshot:
    return Snapshot("coriolis-x", "vm-1", "i", tuple(SnapshotDisk(name, size) for name, size in sizes.items()))


def test_the_same_disks_pass() -> None:
    check_same_disks(SPEC, snapshot(b=200, a=100))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (snapshot(a=100, b=300), "b has 300 bytes now, not 200"),
        (snapshot(a=100), "b was removed"),
        (snapshot(a=100, b=200, c=1), "c was added"),
    ],
)
def test_other_disks_need_a_new_job(now: Snapshot, said: str) -> None:
    with pytest.raises(Conflict, match=f"{said}.*start a new one"):
        check_same_disks(SPEC, now)
