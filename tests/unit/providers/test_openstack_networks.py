"""What of an origin's networks and security groups is made at a destination: decided from Neutron's documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

pytest.importorskip("openstack")
from coriolis.errors import Conflict, InvalidInput
from coriolis.model.machine import Devices, MachineSpec, Nic
from coriolis.model.network import CloudConfiguration, Network, Subnet
from coriolis.model.network_mapping import needed
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.providers.openstack import inventory, missing_networks
from coriolis.providers.openstack.configuration import groups_of
from coriolis.providers.openstack.inventory import OpenstackInventory
from coriolis.providers.openstack.missing_networks import MissingNetworks, missing, rule_body

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


class PhonyNeutron:
    """Stands for a session of project ``mine`` with the role of an administrator: lists are of all projects."""

    project_id = "mine"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **lists: list[dict[str, Any]]) -> None:
        def listed(cloud: None, service: str, path: str, key: str, params: Any = None) -> list[dict[str, Any]]:
            return lists.get(key, [])

        monkeypatch.setattr(missing_networks, "listed", listed)
        monkeypatch.setattr(inventory, "listed", listed)

    async def read(self, call: Callable[[None], Any]) -> Any:
        return call(None)


def foreign(thing: dict[str, Any]) -> dict[str, Any]:
    return {**thing, "id": f"a-foreign-{thing['id']}", "project_id": "theirs"}


async def test_an_administrator_gets_its_own_projects_networks_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other projects with the same name are neither used nor described, unless they are shared with it."""
    web = group("web", {"direction": "ingress", "remote_ip_prefix": "10.0.0.0/8"})
    opened = foreign(group("web", {"direction": "ingress"}))
    office = {"id": "office-id", "name": "office", "project_id": "mine"}
    session: Any = PhonyNeutron(
        monkeypatch,
        networks=[foreign(office), {**foreign(office), "id": "all", "name": "all", "shared": True}],
        security_groups=[opened, foreign(group("default")), group("default")],
    )
    asked = request(web, nics=(WEB, Nic("all", None, security_groups=("default",))))
    wanted, networks, groups = await MissingNetworks(session, lambda *_: None)._missing(asked)
    assert [one.name for one in wanted.networks] == ["office"]
    assert [one.name for one in wanted.groups] == ["web"]
    assert (networks, groups) == ({"all": "all"}, {"default": "default-id"})
    session = PhonyNeutron(monkeypatch, networks=[office, foreign(office)], security_groups=[web, opened])
    described = await OpenstackInventory(session).configuration()
    assert [one.id for one in described.networks] == ["office-id"]
    assert described.security_groups == groups_of([web])


def test_a_name_that_several_have_is_for_the_user_to_decide() -> None:
    asked = request(group("web"), nics=(WEB,))
    with pytest.raises(Conflict, match="2 networks of the destination are called office: give an id in network_map"):
        missing(asked, ["office", "office"], ["default"])
    with pytest.raises(Conflict, match="2 security groups of the destination are called web: give an id in security_g"):
        missing(asked, ["office"], ["web", "default", "web"])
