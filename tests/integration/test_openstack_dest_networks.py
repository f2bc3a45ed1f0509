"""Networks and security groups of an origin, made at a real OpenStack because a job asks for it, and gone with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("openstack")
import coriolis.keystone  # noqa: F401  # before openstacksdk
from coriolis.errors import InvalidInput
from coriolis.model.machine import Nic
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, SecurityRule, Subnet
from coriolis.providers.openstack.rest import ask, listed
from tests.contract.openstack_destination import NETWORK, Project
from tests.integration.openstack_project import MAC, Trial
from tests.lab.openstack_phony_faults import phony_faults

pytestmark = [
    pytest.mark.lab,
    pytest.mark.openstack,
]
WEB = (
    SecurityRule("egress"),
    SecurityRule("ingress", protocol="tcp", port_first=443, port_last=443, remote_cidr="10.0.0.0/8"),
    SecurityRule("ingress", remote_group="admins"),
)
OFFICE = Subnet(
    "office-4",
    "10.88.0.0/24",
    gateway="10.88.0.1",
    pools=(("10.88.0.10", "10.88.0.99"),),
    dns_servers=("10.88.0.2",),
    routes=(("10.99.0.0/16", "10.88.0.3"),),
)
OFFICE_6 = Subnet("office-6", "fd00:88::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
DESCRIBED = CloudConfiguration(
    networks=(
        Network(
            "office",
            "o-1",
            (OFFICE, Subnet("office-6", "fd00:88::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")),
        ),
        Network("outside", "o-2", (Subnet("out", "198.51.100.0/24"),), external=True),
    ),
    security_groups=(SecurityGroup("admins", rules=()), SecurityGroup("web", rules=tuple(sorted(WEB)))),
)


def trial_of(project: Project, folder: Path, *nics: Nic) -> Trial:
    trial = Trial(project, folder, create_missing_networks=True)
    devices = msgspec.structs.replace(trial.spec.devices, nics=nics)
    trial.spec = msgspec.structs.replace(trial.spec, devices=devices, configuration=DESCRIBED)
    return trial


def names(project: Project, kind: str) -> set[str]:
    return {one["name"] for one in listed(project.own, "network", f"/{kind.replace('_', '-')}", kind)}


async def test_what_is_missing_is_made_once_and_removed_when_unused(project: Project, tmp_path: Path) -> None:
    """Also when an answer is lost on the way, and when the attempt before was cut short."""
    before = {kind: names(project, kind) for kind in ("networks", "subnets", "security_groups")}
    mine = Nic("office", MAC, ip_addresses=("10.88.0.55",), network_id="o-1", security_groups=("web",))
    trial = trial_of(project, tmp_path, mine, Nic("lan", None))
    trial.environment["keep_ips"] = True
    async with trial.connected() as connection:
        await connection.instances.validate(trial.request())
        assert names(project, "networks") == before["networks"]
        volumes = await trial.volumes(connection)
        with phony_faults(connection) as faults:
            faults.add("POST", "/networks", 500, performed=True)
            faults.add("POST", "/subnets", 409)
            with pytest.raises(Exception, match="phony"):
                await connection.instances.create_instance(trial.request(volumes))
        assert any(one.kind == "instance" for one in await connection.instances.find_tagged(trial.job))
        await connection.instances.create_instance(trial.request(volumes))
        await connection.instances.create_instance(trial.request(volumes))
        assert names(project, "networks") == before["networks"] | {"office"}
        assert names(project, "security_groups") == before["security_groups"] | {"admins", "web"}
        configuration = await connection.inventory.configuration()
        (made,) = [one for one in configuration.networks if one.name == "office"]
        four = next(one for one in made.subnets if one.ip_version == 4)
        assert msgspec.structs.replace(four, id="") == OFFICE
        assert {one.cidr for one in made.subnets} == {"10.88.0.0/24", "fd00:88::/64"}
        groups = {one.name: one for one in configuration.security_groups}
        assert groups["web"].rules == tuple(sorted(WEB))
        assert groups["admins"].rules == ()
        ports = [one for one in listed(project.own, "network", "/ports", "ports") if one["name"].startswith("coriolis")]
        inside = next(one for one in ports if one["network_id"] == made.id)
        assert inside["security_groups"] == [groups["web"].id]
        assert "10.88.0.55" in {one["ip_address"] for one in inside["fixed_ips"]}
        assert {one["network_id"] for one in ports} == {made.id, _network_id(project, NETWORK)}
        await trial.clean(connection)
        assert await connection.instances.find_tagged(trial.job) == []
    assert {kind: names(project, kind) for kind in before} == before
    assert project.leftovers() == []


async def test_what_somebody_uses_stays(project: Project, tmp_path: Path) -> None:
    trial = trial_of(project, tmp_path, Nic("office", MAC, network_id="o-1"))
    async with trial.connected() as connection:
        volumes = await trial.volumes(connection)
        await connection.instances.create_instance(trial.request(volumes))
        body = {"port": {"network_id": _network_id(project, "office"), "name": "somebody's"}}
        port = ask(project.own, "network", "POST", "/ports", body)["port"]
        await trial.clean(connection)
        assert "office" in names(project, "networks")
        assert await connection.instances.find_tagged(trial.job) == []
        ask(project.own, "network", "DELETE", f"/ports/{port['id']}")
        await connection.instances.delete_instance(trial.instance_id)
    assert "office" not in names(project, "networks")


@pytest.mark.parametrize(
    ("nic", "said"),
    [
        (Nic("outside", None, network_id="o-2"), "leads out of its cloud"),
        (Nic("unknown", None), "does not describe it"),
    ],
)
async def test_what_is_not_made(project: Project, tmp_path: Path, nic: Nic, said: str) -> None:
    trial = trial_of(project, tmp_path, nic)
    async with trial.connected() as connection:
        with pytest.raises(InvalidInput, match=said):
            await connection.instances.validate(trial.request())


def _network_id(project: Project, name: str) -> Any:
    return next(one["id"] for one in listed(project.own, "network", "/networks", "networks") if one["name"] == name)
