"""Networks, security groups and storage types of two clouds, compared."""

from __future__ import annotations

import msgspec

from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, SecurityRule, StorageType, Subnet
from coriolis.model.network_mapping import Match, needed, propose

WEB = SecurityRule("ingress", protocol="tcp", port_first=80, port_last=80, remote_cidr="0.0.0.0/0")
FROM_DB = SecurityRule("ingress", remote_group="db")


def network(name: str, cidr: str = "", *, ident: str = "", mtu: int = 1500, gateway: str = "") -> Network:
    subnets = (Subnet(f"{name}-subnet", cidr, f"sub-{ident or name}", gateway),) if cidr else ()
    return Network(name, ident or f"id-{name}", subnets, mtu)


def machine(*nics: Nic, storage: str = "") -> MachineSpec:
    return MachineSpec(
        "i", "vm", 1, 512, devices=Devices(nics=nics, disks=(Disk("d", 1, storage_backend_identifier=storage),))
    )


def networks(*names: str) -> CloudConfiguration:
    return CloudConfiguration(networks=tuple(network(name) for name in names))


def test_a_map_goes_before_names_and_may_name_subnets_and_ids() -> None:
    there = CloudConfiguration(networks=(network("lan"), network("dmz", "10.1.0.0/24")))
    spec = machine(Nic("lan", None, network_id="n1"))
    for chosen in ({"lan": "dmz"}, {"n1": "id-dmz"}, {"lan": "sub-dmz"}, {"lan": "dmz-subnet"}):
        proposal = propose([spec], CloudConfiguration(), there, network_map=chosen)
        assert proposal.networks == (Match("lan", "mapped", "dmz", "id-dmz"),)
        assert proposal.complete


def test_a_map_to_nothing_is_missing_although_the_name_is_there() -> None:
    found = propose([machine(Nic("lan", None))], CloudConfiguration(), networks("lan"), network_map={"lan": "nowhere"})
    assert found.networks[0].why == "missing"
    assert "nowhere" in found.networks[0].differences[0]
    assert not found.complete


def test_the_same_name_serves_and_what_differs_is_said() -> None:
    here = CloudConfiguration(networks=(network("lan", "10.0.0.0/24", mtu=9000),))
    there = CloudConfiguration(networks=(network("lan", "10.9.0.0/24"),))
    match = propose([machine(Nic("lan", None, network_id="id-lan"))], here, there).networks[0]
    assert match.why == "same_name"
    assert match.differences == (
        "its subnets are 10.9.0.0/24 instead of 10.0.0.0/24",
        "its MTU is 1500 instead of 9000",
    )
    moved = CloudConfiguration(networks=(network("lan", "10.0.0.0/24", gateway="10.0.0.1"),))
    match = propose([machine(Nic("lan", None))], here, moved).networks[0]
    assert match.differences[0] == "the gateway of 10.0.0.0/24 is 10.0.0.1 instead of none"


def test_another_name_with_the_same_subnets_serves_when_it_is_the_only_one() -> None:
    here = CloudConfiguration(networks=(network("lan", "10.0.0.0/24"),))
    spec = machine(Nic("lan", None))
    there = CloudConfiguration(networks=(network("office", "10.0.0.0/24"), network("empty")))
    assert propose([spec], here, there).networks == (Match("lan", "same_subnets", "office", "id-office"),)
    two = CloudConfiguration(networks=(network("a", "10.0.0.0/24"), network("b", "10.0.0.0/24")))
    assert propose([spec], here, two).networks == (Match("lan", "missing"),)


def test_two_of_one_name_are_for_the_user_to_choose() -> None:
    there = CloudConfiguration(networks=(network("lan", ident="n1"), network("lan", ident="n2")))
    proposal = propose([machine(Nic("lan", None))], CloudConfiguration(), there)
    assert proposal.networks[0].why == "ambiguous"
    assert "n1, n2" in proposal.networks[0].differences[0]
    assert not proposal.complete


def test_a_network_without_subnets_is_like_no_other() -> None:
    here, there = CloudConfiguration(networks=(network("lan"),)), networks("office")
    assert propose([machine(Nic("lan", None))], here, there).networks[0].why == "missing"


def test_security_groups_are_compared_by_their_rules() -> None:
    spec = machine(Nic("lan", None, security_groups=("web", "gone")))
    here = CloudConfiguration(security_groups=(SecurityGroup("web", "g1", rules=(WEB, FROM_DB)),))
    there = CloudConfiguration(security_groups=(SecurityGroup("web", "g2", rules=(WEB,)),))
    gone, web = propose([spec], here, there).security_groups
    assert gone == Match("gone", "missing")
    assert web == Match("web", "same_name", "web", "g2", ("1 of its rules are missing",))
    more = CloudConfiguration(security_groups=(SecurityGroup("web", "g2", rules=(WEB, FROM_DB, WEB)),))
    assert propose([spec], here, more).security_groups[1].differences == ()


def test_storage_without_a_counterpart_goes_to_the_default() -> None:
    here = CloudConfiguration(storage_types=(StorageType("fast", encrypted=True),))
    there = CloudConfiguration(storage_types=(StorageType("fast", "t1"), StorageType("slow", "t2")))
    spec = machine(storage="fast")
    assert propose([spec], here, there).storage_types == (
        Match("fast", "same_name", "fast", "t1", ("it is not encrypted",)),
    )
    assert propose([spec], here, CloudConfiguration()).storage_types == (Match("fast", "default"),)
    assert propose([spec], here, there, storage_map={"fast": "slow"}).storage_types[0].destination == "slow"
    assert not propose([spec], here, there, storage_map={"fast": "none"}).complete
    assert propose([machine()], here, there).storage_types == ()


def test_only_what_the_machines_use_is_kept_and_what_its_rules_name() -> None:
    db = SecurityGroup("db", rules=(SecurityRule("ingress", remote_group="admin"),))
    origin = CloudConfiguration(
        networks=(network("lan", ident="n1"), network("lan", ident="n2"), network("other")),
        security_groups=(SecurityGroup("admin"), db, SecurityGroup("unused"), SecurityGroup("web", rules=(FROM_DB,))),
        storage_types=(StorageType("fast"), StorageType("slow")),
    )
    kept = needed([machine(Nic("lan", None, network_id="n2", security_groups=("web",)), storage="fast")], origin)
    assert [one.id for one in kept.networks] == ["n2"]
    assert [one.name for one in kept.security_groups] == ["admin", "db", "web"]
    assert [one.name for one in kept.storage_types] == ["fast"]


def test_it_travels_as_json() -> None:
    whole = CloudConfiguration(
        (network("lan", "fd00::/64"),), (SecurityGroup("web", rules=(WEB,)),), (StorageType("fast"),)
    )
    assert msgspec.json.decode(msgspec.json.encode(whole), type=CloudConfiguration) == whole
    assert whole.networks[0].subnets[0].ip_version == 6
