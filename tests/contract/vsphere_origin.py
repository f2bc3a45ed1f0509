"""vSphere origins for the contract suite: vcsim behind the lab's proxy, which adds change tracking and freezing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from tests.contract.case import Origin, sample_disk
from tests.lab.vsphere_site import Site

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """``locks``: which extents the simulated host refuses to hand out; ``tracked``: change tracking works."""

    running: bool = True
    transport: str = "auto"
    locks: str = "none"
    tracked: bool = True
    template: bool = False
    disks: int = 2


VSPHERE_ORIGINS = {
    "ranges": Kind(),
    "export": Kind(locks="chain"),
    "export-untracked": Kind(transport="export", tracked=False, disks=1),
    "stopped": Kind(running=False, locks="live", tracked=False, disks=1),
    "template": Kind(running=False, template=True, tracked=False, disks=1),
}


def vsphere_origin(site: Site, folder: Path, kind: str) -> Origin:
    """A machine of that kind with sample disks."""
    wanted = VSPHERE_ORIGINS[kind]
    name = f"origin {kind} {next(_numbers)}"
    content = [sample_disk(number) for number in range(wanted.disks)]
    site.vcenter.folder_locks = wanted.locks
    identity = site.add_machine(
        name, [bytes(disk) for disk in content], running=wanted.running, template=wanted.template, cbt=wanted.tracked
    )
    truth = {str(key): disk for key, disk in zip(site.disk_keys(name), content, strict=True)}

    def write(disk: str, offset: int, length: int, pattern: int) -> None:
        data = bytes([pattern]) * length
        site.guest_write(name, int(disk), offset, data)
        truth[disk][offset : offset + length] = data

    environment = {"disk_transport": wanted.transport, "change_tracking": "auto" if wanted.tracked else "as_is"}
    return Origin(
        VsphereProvider(),
        site.connection_info(),
        identity,
        truth,
        write if wanted.running else None,
        frozenset(truth) if wanted.tracked else frozenset(),
        wanted.running,
        Surroundings(environment=environment, state_dir=folder / "state"),
    )
