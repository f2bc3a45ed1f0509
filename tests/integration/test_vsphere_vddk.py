"""The VDDK transport, with `nbdkit file` standing in for the plugin's NBD side: VMware's library cannot be had here."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from coriolis.errors import Unavailable, Unsupported
from coriolis.providers.base import Page
from coriolis.providers.surroundings import Surroundings
from coriolis.providers.vmware_vsphere.properties import all_of
from coriolis.providers.vmware_vsphere.provider import VsphereConnection, VsphereProvider
from tests.lab.vcsim import PASSWORD, USER, Simulator

NAME = "coriolis-00000000-0000-0000-0000-000000000000-0-pass-1"
PHONY = Path(__file__).parents[1] / "lab" / "phony_nbdkit_vddk"
MIB = 1 << 20


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An unpacked phony VDDK, and a phony nbdkit in front of the real one."""
    programs, library = tmp_path / "bin", tmp_path / "vddk"
    programs.mkdir()
    (library / "lib64").mkdir(parents=True)
    (programs / "nbdkit").symlink_to(PHONY)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return library


async def origin(connection: Any, size_mib: int) -> tuple[str, str, Path]:
    """(machine id, VMDK path, its flat file with random bytes) of a stopped machine."""
    assert isinstance(connection, VsphereConnection)
    spec = (await connection.inventory.list_instances(Page()))[0]
    await connection.power.power_off(spec.id)
    session = connection.inventory._session
    found = await session.run(lambda content: [values for _, values in all_of(content, vim.Datastore, ["info"])])
    disk = spec.devices.disks[0]
    flat = Path(found[0]["info"].url) / disk.path.split("] ")[1].replace(".vmdk", "-flat.vmdk")
    with flat.open("wb") as file:
        file.write(random.Random(3).randbytes(size_mib * MIB))
        file.truncate(disk.size_bytes)
    return spec.id, disk.path, flat


async def test_vddk_comes_first_where_the_operator_has_it(simulator: Simulator, library: Path) -> None:
    said: list[str] = []
    around = Surroundings(vddk_dir=library, tell=lambda message, level="INFO": said.append(message))
    async with VsphereProvider().connect(simulator.connection_info(), around) as connection:
        machine, vmdk, flat = await origin(connection, 8)
        known = {"password": PASSWORD, "disks": {vmdk: str(flat)}}
        (library / "phony.json").write_text(json.dumps(known))
        source = connection.snapshots
        assert source is not None
        snapshot = await source.create_snapshot(machine, NAME, None)
        async with source.open_reader(snapshot, snapshot.disks[0].disk_id) as reader:
            pieces = await asyncio.gather(*(reader.read_at(at * MIB, MIB) for at in range(8)))
            assert b"".join(pieces) == random.Random(3).randbytes(8 * MIB)
            assert reader.size == snapshot.disks[0].size_bytes
        assert said[-1] == f"disk {snapshot.disks[0].disk_id}: read by VDDK (nbdkit)"
        (call,) = [json.loads(line) for line in (library / "calls.json").read_text().splitlines()]
        assert (call["user"], call["server"], call["vm"]) == (USER, simulator.host, f"moref={machine}")
        assert (call["thumbprint"], call["port"]) == (simulator.thumbprint, str(simulator.port))
        assert PASSWORD not in json.dumps(call), "neither in arguments nor in the environment"


async def test_what_vddk_says_is_passed_on_and_the_next_way_taken(simulator: Simulator, library: Path) -> None:
    said: list[str] = []
    around = Surroundings(vddk_dir=library, tell=lambda message, level="INFO": said.append(message))
    async with VsphereProvider().connect(simulator.connection_info(), around) as connection:
        machine, _, _ = await origin(connection, 1)
        (library / "phony.json").write_text(json.dumps({"password": "another", "disks": {}}))
        source = connection.snapshots
        assert source is not None
        snapshot = await source.create_snapshot(machine, NAME, None)
        async with source.open_reader(snapshot, snapshot.disks[0].disk_id) as reader:
            assert await reader.read_at(0, MIB) == random.Random(3).randbytes(MIB)
        assert "incorrect user name or password" in said[-1]
        assert "read by ranges of the datastore" in said[-1]


@pytest.mark.parametrize(
    ("present", "error", "said"), [(True, Unavailable, "file was not found"), (False, Unsupported, "no lib64")]
)
async def test_vddk_alone_can_be_asked_for(
    simulator: Simulator, library: Path, present: bool, error: type[Exception], said: str
) -> None:
    if not present:
        (library / "lib64").rmdir()
    around = Surroundings(environment={"disk_transport": "vddk"}, vddk_dir=library)
    async with VsphereProvider().connect(simulator.connection_info(), around) as connection:
        machine, _, _ = await origin(connection, 1)
        (library / "phony.json").write_text(json.dumps({"password": PASSWORD, "disks": {}}))
        source = connection.snapshots
        assert source is not None
        snapshot = await source.create_snapshot(machine, NAME, None)
        try:
            with pytest.raises(error, match=said):
                async with source.open_reader(snapshot, snapshot.disks[0].disk_id):
                    pass
        finally:
            await source.delete_change_base(machine, NAME)
