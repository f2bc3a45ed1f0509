"""A machine in the lab's vSphere on its way to be read: its disk, a connection, a snapshot of it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coriolis.model.disk import Snapshot
from coriolis.providers.base import BlockReader, Connection, SnapshotSource
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere import export_lease, folder_reader, stream_reader
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from tests.lab.vsphere_site import Site

MIB = 1 << 20
SIZE = 12 * MIB
FIRST, SECOND = "coriolis-faults-pass-1", "coriolis-faults-pass-2"
WAYS = ["datastore", "export"]


def content(seed: int = 7, size: int = SIZE) -> bytes:
    """Random, with holes."""
    chance, disk = random.Random(seed), bytearray(size)
    for at in range(0, size, 3 * MIB):
        disk[at : at + 2 * MIB] = chance.randbytes(2 * MIB)
    return bytes(disk)


class Said(list[str]):
    def hear(self, message: str, level: str = "INFO") -> None:
        self.append(f"{level} {message}")


@asynccontextmanager
async def connected(site: Site, said: Said | None = None, **environment: str) -> AsyncIterator[Connection]:
    hear = said.hear if said is not None else Said().hear
    around = Surroundings(environment=environment, tell=hear)
    async with VsphereProvider().connect(site.connection_info(), around) as connection:
        yield connection


def source_of(connection: Connection) -> SnapshotSource:
    assert connection.snapshots is not None
    return connection.snapshots


async def read_all(reader: BlockReader, step: int = MIB) -> bytes:
    return b"".join([await reader.read_at(at, min(step, reader.size - at)) for at in range(0, reader.size, step)])


@asynccontextmanager
async def frozen(
    site: Site, name: str, way: str, said: Said | None = None
) -> AsyncIterator[tuple[SnapshotSource, Snapshot]]:
    """A new running machine ``name`` with one disk, and a snapshot of it; both end with the context."""
    identity = site.add_machine(name, [content()], running=True)
    async with connected(site, said, disk_transport=way) as connection:
        source = source_of(connection)
        try:
            yield source, await source.create_snapshot(identity, FIRST, None)
        finally:
            for one in (FIRST, SECOND):
                await source.delete_change_base(identity, one)


def disk_of(snapshot: Snapshot) -> str:
    return snapshot.disks[0].disk_id


def shorten_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of readers for what does not answer."""
    monkeypatch.setattr(folder_reader, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(folder_reader, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(stream_reader, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(export_lease, "STALL_S", 1.0)
