"""Where a task runs: directories, key material and addresses of its agent."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from coriolis.agent.assignment import Assignment
from coriolis.agent.data_port import PortRange
from coriolis.providers.surroundings import CinderAccess
from coriolis.rpc.tls import TlsFiles


class Workplace(msgspec.Struct, frozen=True):
    """Where a task runs. ``state_dir`` is the agent's own, ``bind_host`` and ``advertise_host`` for data listeners.

    ``data_ports``: those that data listeners may use; None: any. ``meeting_address``: host:port of the agent's own data
    port as its tasks reach it, empty without one. ``package_bundle``: the operator's packages for guests, by
    distribution and version. ``virtio_win``: the operator's ISO with drivers for Windows. ``vddk_dir``: the operator's
    VMware Virtual Disk Development Kit. ``staging_dir``: for disks of clouds that take whole images only. ``cinder``:
    whether and how this host attaches Cinder volumes.
    """

    agent_id: str
    state_dir: Path
    tls: TlsFiles
    bind_host: str = "127.0.0.1"
    advertise_host: str = "127.0.0.1"
    read_limit_bytes_per_s: int = 0
    data_ports: PortRange | None = None
    meeting_address: str = ""
    package_bundle: Path | None = None
    virtio_win: Path | None = None
    vddk_dir: Path | None = None
    staging_dir: Path | None = None
    cinder: CinderAccess | None = None

    def transfer_dir(self, assignment: Assignment) -> Path:
        """Journals, conversion state of one machine; gone after the job."""
        return self.state_dir / "transfers" / assignment.migration_id / str(assignment.instance_index)

    def manifest_dir(self, migration_id: str, instance_index: int) -> Path:
        """Manifests of one machine's sealed disks; kept for verification."""
        return self.manifests_of(migration_id) / str(instance_index)

    def manifests_of(self, migration_id: str) -> Path:
        """Of all machines of a migration."""
        return self.state_dir / "manifests" / migration_id

    def discard(self, folder: Path) -> None:
        """Remove ``folder`` and the folders above it that this leaves empty, up to the agent's own."""
        shutil.rmtree(folder, ignore_errors=True)
        for above in folder.parents:
            if above.parent == self.state_dir:
                return
            try:
                above.rmdir()
            except OSError:
                return  # a neighbour still works here
