"""What the fault tests migrate: small machines with known bytes, from images to a real libvirt that starts them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.checkers import site as evidence
from tests.fault.mesh import Mesh, endpoint, summary
from tests.lab import guest_domain as lab

MIB = 1 << 20
FULL_BYTES = 256 * MIB
SPARSE_BYTES = 96 * MIB
READ_LIMIT = 64 * MIB
"""Per disk, so that a pass lasts about four seconds and a kill can land anywhere in it."""


@dataclass
class Site:
    """An isolated libvirt daemon that receives machines."""

    folder: Path
    uri: str = ""

    async def __aenter__(self) -> Site:
        self.uri = await asyncio.to_thread(lab.start_site, self.folder)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(lab.stop_site, self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pool(self) -> Path:
        return self.folder / "pool"


def new_site() -> Site:
    """Below a short path: unix sockets live there."""
    return Site(Path(tempfile.mkdtemp(prefix="cor-f-")))


@dataclass
class Machine:
    """One origin machine: a disk full of random bytes, far larger than what may be sent again, and a sparse one."""

    folder: Path
    name: str
    seed: int
    sizes: tuple[int, ...] = (FULL_BYTES, SPARSE_BYTES)

    def build(self) -> Machine:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f'name = "{self.name}"', "num_cpu = 1", "memory_mb = 64"]
        for number, size in enumerate(self.sizes):
            rng = np.random.default_rng([self.seed, number])
            with self.path(number).open("wb") as file:
                file.truncate(size)
                for cell in range(size // MIB):
                    if number == 0 or rng.random() < 0.3:
                        file.seek(cell * MIB)
                        file.write(rng.bytes(MIB))
            lines += ["[[disks]]", f'file = "{self.path(number).name}"', 'format = "raw"']
        lines += ["[[nics]]", 'network_name = "lan"', 'mac_address = "52:54:00:00:00:01"']
        (self.folder / f"{self.name}.toml").write_text("\n".join(lines) + "\n")
        return self

    def path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number}.img"

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def request(self, site: Site) -> job_pb2.CreateMigrationRequest:
        return job_pb2.CreateMigrationRequest(
            origin=endpoint("image", {"path": str(self.folder)}),
            destination=endpoint(
                "libvirt",
                lab.connection_info(site.uri, site.folder),
                {"network_map": {"lan": "none"}, "domain_type": "qemu", "machine": "pc"},
            ),
            instances=[self.name],
            skip_os_morphing=True,
            replication_count=1,
        )


def check_outcome(machine: Machine, site: Site, migration: job_pb2.Migration) -> None:
    """The standard verdict for one finished migration: success, bytes, one start, no orphans, bounded re-sending."""
    assert migration.status == "COMPLETED", summary(migration)
    volumes = {f"coriolis-{migration.id}-0-disk-{number}" for number in range(len(machine.sizes))}
    for number, name in enumerate(sorted(volumes)):
        size = machine.sizes[number]
        want = evidence.sha256(machine.path(number), size)
        assert evidence.sha256(site.pool / name, size) == want, f"I1: {name}\n{summary(migration)}"
    counts = evidence.starts(site.folder)
    assert counts.get(machine.name, 0) == 1, f"I2: {machine.name} was started {counts.get(machine.name, 0)} times"
    left = evidence.leftovers(site.uri, site.pool, {machine.name}, volumes)
    assert not left, f"I4: left over: {left}"
    assert not migration.residue


def clear(site: Site) -> None:
    """Remove the last run's machine, so that every run begins with an empty site."""
    import libvirt

    with libvirt.open(site.uri) as connection:
        for domain in connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    for path in site.pool.iterdir():
        if path.is_file():
            path.unlink()
    for log in (site.folder / "log").rglob("*.log"):
        if log.stem.startswith("vm-"):
            log.unlink()
    shutil.rmtree(site.pool / ".coriolis", ignore_errors=True)


async def until_moving(mesh: Mesh, migration_id: str, fraction: float, timeout_s: float = 60) -> None:
    """Return when the given part of the data has been sent, or the migration is past its replication."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while loop.time() < deadline:
        migration = await mesh.get(migration_id)
        total = sum(disk.total_bytes for disk in migration.disks)
        done = sum(disk.done_bytes for disk in migration.disks)
        if migration.status != "RUNNING" or (total and done >= fraction * total):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the transfer does not move")
