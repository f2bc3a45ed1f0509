"""Connecting to a simulated vCenter or ESXi host (govmomi's vcsim), and what is found there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from coriolis.errors import Conflict, CoriolisError, Denied, InvalidInput, NotFound, Unavailable
from coriolis.providers.base import Connection, Page
from coriolis.providers.vmware_vsphere.provider import VsphereProvider
from tests.lab.vcsim import Simulator, vcsim


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with vcsim("-machines", "3") as running:
        yield running


def connect(simulator: Simulator, **changes: Any) -> AbstractAsyncContextManager[Connection]:
    info = {name: value for name, value in simulator.connection_info(**changes).items() if value is not None}
    return VsphereProvider().connect(info)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"password": "wrong"}, Denied, "refuses the login"),
        ({"host": "no-such-host.invalid"}, Unavailable, "host name is unknown"),
        ({"port": 1}, Unavailable, "cannot be reached"),
        ({"thumbprint": None}, Denied, "not trusted.*thumbprint, or set allow_untrusted"),
        ({"thumbprint": "AA:" * 19 + "AA"}, Denied, "not the given one"),
        ({"thumbprint": None, "ca": "-----BEGIN CERTIFICATE-----\nnone"}, InvalidInput, "no certificate"),
        ({"hostname": "x"}, InvalidInput, "unknown field"),
    ],
)
async def test_each_wrong_connection_says_what_is_wrong(
    simulator: Simulator, changes: dict[str, Any], error: type[CoriolisError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        async with connect(simulator, **changes):
            pass
    assert simulator.connection_info()["password"] not in str(caught.value)


async def test_any_certificate_only_when_asked(simulator: Simulator) -> None:
    async with connect(simulator, thumbprint=None, allow_untrusted=True) as connection:
        assert await connection.inventory.list_storage()


async def test_machines_by_name_path_uuid_and_id(simulator: Simulator) -> None:
    async with connect(simulator) as connection:
        machines = await connection.inventory.list_instances(Page())
        assert len(machines) == 6
        first = machines[0]
        assert first.devices.disks[0].size_bytes == 10 << 30
        assert first.devices.disks[0].storage_backend_identifier == "LocalDS_0"
        assert first.devices.nics[0].network_name == "DC0_DVPG0"
        assert first.power_state == "running"
        for wanted in (first.id, first.name, f"/DC0/vm/{first.name}"):
            assert (await connection.inventory.get_instance(wanted)).id == first.id
        with pytest.raises(NotFound, match="name, path, instance UUID or id"):
            await connection.inventory.get_instance("nothing")


async def test_pages(simulator: Simulator) -> None:
    async with connect(simulator) as connection:
        whole = await connection.inventory.list_instances(Page())
        head = await connection.inventory.list_instances(Page(limit=4))
        tail = await connection.inventory.list_instances(Page(limit=4, marker=head[-1].id))
        assert [one.id for one in (*head, *tail)] == [one.id for one in whole]


async def test_an_ambiguous_name_lists_the_candidates(simulator: Simulator) -> None:
    from coriolis.providers.vmware_vsphere.inventory import Found, choose

    known = [Found("vm-1", "web", "", "/DC0/vm/a/web"), Found("vm-2", "web", "", "/DC0/vm/b/web")]
    with pytest.raises(Conflict, match=r"/DC0/vm/a/web \(vm-1\), /DC0/vm/b/web \(vm-2\)"):
        choose(known, "web")
    assert choose(known, "/DC0/vm/b/web") == "vm-2"


async def test_a_single_host_works_too() -> None:
    with vcsim("-esx") as host:
        async with connect(host) as connection:
            assert len(await connection.inventory.list_instances(Page())) == 2


async def test_a_large_inventory_is_read_by_pages_not_machine_by_machine() -> None:
    with vcsim("-machines", "500") as large:
        async with connect(large) as connection:
            started = time.monotonic()
            machines = await connection.inventory.list_instances(Page(limit=1000))
            assert len(machines) == 1000
            assert time.monotonic() - started < 60, "machine by machine it would take minutes"
