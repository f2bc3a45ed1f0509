"""MAC addresses that vSphere does not take: which the machine gets is known before its guest is converted (vcsim)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from coriolis.convert.request import request_for
from coriolis.errors import Conflict
from coriolis.ids import new_id
from coriolis.model.resource import InstanceRequest
from coriolis.providers.base import ReservesNics
from coriolis.providers.vmware_vsphere.properties import all_of
from coriolis.providers.vmware_vsphere.session import Session
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from tests.fault.mesh import Mesh, endpoint, summary
from tests.integration.guest_with_macs import GUEST, macs_inside, put_in
from tests.integration.vsphere_import import (
    Told,
    config_of,
    connect,
    datastore_directory,
    disk_content,
    parts,
    request_of,
    spec_of,
    staged,
)
from tests.lab.phony_distros import MACS
from tests.lab.vcsim import Simulator

RESERVED = "00:0c:29:00:00:01"
"""The third NIC's of ``spec_of``, as an ESXi host generates them."""


def cards(config: dict[str, Any]) -> list[Any]:
    ethernet = vim.vm.device.VirtualEthernetCard
    return [device for device in config["config.hardware.device"] if isinstance(device, ethernet)]


def macs(config: dict[str, Any]) -> tuple[str, ...]:
    assert {card.addressType for card in cards(config)} == {"manual"}
    return tuple(card.macAddress for card in cards(config))


async def give_to_another(info: dict[str, Any], mac: str) -> None:
    """A NIC of one of the simulator's own machines gets that address."""

    def change(content: Any) -> None:
        vm, values = next(iter(all_of(content, vim.VirtualMachine, ["config.hardware.device"])))
        (card,) = cards(values)
        card.addressType, card.macAddress = "manual", mac.upper()
        edit = vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)
        vm.ReconfigVM_Task(spec=vim.vm.ConfigSpec(deviceChange=[edit]))

    session = Session(info)
    try:
        await session.open()
        await session.run(change)
    finally:
        await session.close()


async def reserve(connection: Any, request: InstanceRequest) -> tuple[str, ...]:
    target = parts(connection)[1]
    assert isinstance(target, ReservesNics)
    return await target.reserve_nics(request)


async def test_what_was_reserved_is_converted_for_and_made(simulator: Simulator, tmp_path: Path) -> None:
    job, info, told = new_id(), simulator.connection_info(), Told()
    spec = spec_of([len(disk_content(1))])
    async with connect(info, tmp_path, told) as connection:
        target = parts(connection)[1]
        await target.validate(request_of(job, (), spec))
        assert [one for one in told if "gets another" in one], "said before a byte moves"
        volumes = await staged(connection, job, [disk_content(1)])
        request = request_of(job, volumes, spec)
        first = await reserve(connection, request)
        assert first[:2] == ("52:54:00:01:02:03", "00:50:56:3f:00:01")
        assert first[2].startswith("00:50:56:")
        assert any(f"gets {first[2]}" in one for one in told)
        nics = request_for(spec, "vmware", "replica", macs=first).nics
        assert [(nic.mac, nic.was) for nic in nics] == [(first[0], ""), (first[1], ""), (first[2], RESERVED)]
        assert not [one for one in await target.find_tagged(job) if one.kind == "instance"], "nothing is made there"
    async with connect(info, tmp_path) as connection:
        assert await reserve(connection, request) == first, "another process, after a kill"
        made = await parts(connection)[1].create_instance(request)
        assert macs(await config_of(info, made.id)) == first
        assert await reserve(connection, request) == first, "its own machine takes it from nobody"
        await parts(connection)[1].delete_instance(made.id)


async def test_addresses_of_other_machines_are_left_to_them(simulator: Simulator, tmp_path: Path) -> None:
    job, info = new_id(), simulator.connection_info()
    spec = spec_of([len(disk_content(2))])
    async with connect(info, tmp_path) as connection:
        wish = (await reserve(connection, request_of(job, (), spec)))[2]
        await give_to_another(info, wish)
        volumes = await staged(connection, job, [disk_content(2)])
        request = request_of(job, volumes, spec)
        reserved = await reserve(connection, request)
        assert reserved[2] != wish
        await give_to_another(info, reserved[2])
        with pytest.raises(Conflict, match="another machine has it now"):
            await parts(connection)[1].create_instance(request)
        await give_to_another(info, wish)
        made = await parts(connection)[1].create_instance(request)
        assert macs(await config_of(info, made.id)) == reserved


async def test_the_machine_of_a_template_gets_its_own(simulator: Simulator, tmp_path: Path) -> None:
    job, info = new_id(), simulator.connection_info()
    async with connect(info, tmp_path) as connection:
        volumes = await staged(connection, job, [disk_content(3)])
        request = request_of(job, volumes, spec_of([volumes[0].size_bytes], is_template=True))
        assert (await reserve(connection, request))[2] == RESERVED, "the guest is converted as it is"
        made = await parts(connection)[1].create_instance(request)
    kinds = [card.addressType for card in cards(await config_of(info, made.id))]
    assert kinds == ["manual", "manual", "generated"]


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.timeout(400)
async def test_a_converted_guest_knows_its_new_mac(simulator: Simulator, tmp_path: Path) -> None:
    origin, staging = tmp_path / "origin", tmp_path / "staging"
    origin.mkdir()
    staging.mkdir()
    await put_in(origin, ("lan", "lan"))
    info = simulator.connection_info()
    target = {"cluster": "DC0_C0", "datastore": "LocalDS_0", "network_map": {"lan": "VM Network"}}
    request = job_pb2.CreateMigrationRequest(
        origin=endpoint("image", {"path": str(origin)}),
        destination=endpoint("vmware_vsphere", info, {**target, "start_instance": False}),
        instances=[GUEST],
        replication_count=1,
    )
    settings = {site: {"staging_dir": str(staging)} for site in ("site-a", "site-b")}
    async with Mesh(tmp_path / "mesh", agent_settings=settings) as mesh:
        migration = await mesh.wait(await mesh.migrate(request), timeout_s=300)
    assert migration.status == "COMPLETED", summary(migration)
    said = [event.message for task in migration.tasks if task.task_type == "OS_MORPHING" for event in task.events]
    async with connect(info, staging) as connection:
        machine = await connection.inventory.get_instance(GUEST)
    disk = await datastore_directory(info) / GUEST / f"{GUEST}-flat.vmdk"
    for nic, was in zip(machine.devices.nics, MACS, strict=True):
        assert nic.mac_address != was
        assert any(f"{was} from outside: the NIC on lan gets {nic.mac_address}" in one for one in said)
    assert await macs_inside(disk) == [nic.mac_address for nic in machine.devices.nics]
    assert not [one for one in staging.rglob("*") if one.is_file()], "what was noted of the addresses is gone too"
