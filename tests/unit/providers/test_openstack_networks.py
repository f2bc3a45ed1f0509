"""What of an origin's networks and security groups is made at a destination: decided from Neutron's documents."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

pytest.importorskip("openstack")
from coriolis.errors import InvalidInput
from coriolis.model.machine import Devices, MachineSpec, Nic
from coriolis.model.network import CloudConfiguration, Network, Subnet
from coriolis.model.network_mapping import needed
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.openstack.configuration import groups_of
from coriolis.providers.openstack.missing_networks import missing, rule_body

OFFICE = Network("office", "o-1", (Subnet("office-4", "10.88.0.0/24"),))


def group(name: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """As Neutron describes it."""
    return {"id": f"{name}-id", "name": name, "project_id": "mine", "security_group_rules": list(rules)}


def request(*groups: dict[str, Any], nics: tuple[Nic, ...]) -> InstanceRequest:
    spec = MachineSpec("m-1", "machine", 1, 512, devices=Devices(nics=nics))
    described = needed([spec], CloudConfiguration(networks=(OFFICE,), security_groups=groups_of(groups)))
    return InstanceRequest(
        "machine",
        "00000000-0000-4000-8000-000000000002",
        Tag("00000000-0000-4000-8000-000000000001", "instance/0"),
        msgspec.structs.replace(spec, configuration=described),
        (),
        environment={"create_missing_networks": True},
    )


WEB = Nic("office", None, network_id="o-1", security_groups=("web",))


def test_a_rule_for_a_group_of_addresses_does_not_become_one_for_everybody() -> None:
    """Neutron's address groups are not made anywhere, so the machine's groups are not either."""
    rule = {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "remote_address_group_id": "a-1"}
    (found,) = groups_of([group("web", rule)])
    assert found.rules[0].remote_group == "address group a-1"
    with pytest.raises(InvalidInput, match="address group a-1"):
        missing(request(group("web", rule), nics=(WEB,)), [], ["default"])
    with pytest.raises(InvalidInput, match="address group a-1"):
        rule_body(found.rules[0], "g-1", {"default": "d-1"})


def test_groups_that_rules_name_are_made_or_there() -> None:
    rules = ({"direction": "ingress", "remote_group_id": "admins-id"}, {"direction": "ingress", "remote_group_id": "x"})
    made = missing(request(group("web", rules[0]), group("admins"), nics=(WEB,)), [], ["default"])
    assert [one.name for one in made.groups] == ["admins", "web"]
    made = missing(request(group("web", rules[0]), group("admins"), nics=(WEB,)), [], ["default", "admins"])
    assert [one.name for one in made.groups] == ["web"]
    with pytest.raises(InvalidInput, match="names the group x, which nobody has"):
        missing(request(group("web", rules[1]), nics=(WEB,)), [], ["default"])
