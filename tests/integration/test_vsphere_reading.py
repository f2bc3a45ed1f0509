"""Snapshots and ranges of flat extents: a simulated vCenter (govmomi's vcsim) with real bytes in its datastore."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pyVmomi import vim

from coriolis.errors import Corrupt, NotFound
from coriolis.providers.vmware_vsphere import snapshots
from coriolis.providers.vmware_vsphere.certificate import Trust
from coriolis.providers.vmware_vsphere.folder_reader import Endpoint, folder_path, open_folder
from coriolis.providers.vmware_vsphere.inventory import machines
from coriolis.providers.vmware_vsphere.properties import all_of
from coriolis.providers.vmware_vsphere.session import Session
from tests.lab.vcsim import Simulator

NAME = "coriolis-00000000-pass-1"
SIZE = 9 * (1 << 20) + 512


@pytest_asyncio.fixture
async def session(simulator: Simulator) -> AsyncIterator[Session]:
    session = Session(simulator.connection_info())
    try:
        await session.open()
        yield session
    finally:
        await session.close()


async def test_a_snapshot_is_made_once_found_by_name_and_removed_for_good(session: Session) -> None:
    machine = (await session.run(machines))[0].id
    assert await session.run(lambda content: snapshots.names(content, machine)) == []
    made = await session.run(lambda content: snapshots.create(content, machine, NAME))
    assert made.disks[0].file.endswith("/disk1.vmdk")
    again = await session.run(lambda content: snapshots.create(content, machine, NAME))
    assert again.identity == made.identity
    assert await session.run(lambda content: snapshots.names(content, machine)) == [NAME]
    for _ in range(2):
        await session.run(lambda content: snapshots.remove(content, machine, NAME))
    assert await session.run(lambda content: snapshots.names(content, machine)) == []
    another = await session.run(lambda content: snapshots.create(content, machine, NAME))
    assert another.identity != made.identity, "a resumed pass must notice that it is another moment"
    await session.run(lambda content: snapshots.remove(content, machine, NAME))


async def test_absent_machines(session: Session) -> None:
    await session.run(lambda content: snapshots.remove(content, "vm-none", NAME))
    with pytest.raises(NotFound, match="vm-none"):
        await session.run(lambda content: snapshots.create(content, "vm-none", NAME))


async def test_an_expired_login_is_renewed(session: Session) -> None:
    await session.run(lambda content: content.sessionManager.Logout())
    assert await session.run(machines)


async def test_ranges_are_the_bytes_of_the_extent(simulator: Simulator, session: Session) -> None:
    found = await session.run(lambda content: [values for _, values in all_of(content, vim.Datastore, ["info"])])
    machine = (await session.run(machines))[0].name
    truth = random.Random(5).randbytes(SIZE)
    (Path(found[0]["info"].url) / machine / "disk1-flat.vmdk").write_bytes(truth)
    endpoint = Endpoint(simulator.host, simulator.port, Trust(anything=True), lambda stale: "")
    path = folder_path("/DC0", f"[LocalDS_0] {machine}/disk1-flat.vmdk")
    reader = await open_folder(endpoint, path, SIZE)
    try:
        step = 1 << 20
        pieces = await asyncio.gather(*(reader.read_at(at, min(step, SIZE - at)) for at in range(0, SIZE, step)))
        assert b"".join(pieces) == truth
        assert await reader.read_at(SIZE, 0) == b""
        with pytest.raises(Corrupt, match=f"has {SIZE} bytes, not 512"):
            await open_folder(endpoint, path, 512)
        with pytest.raises(NotFound, match="was the disk moved"):
            await open_folder(endpoint, folder_path("/DC0", "[LocalDS_0] x/y-flat.vmdk"), 512)
    finally:
        await reader.close()
