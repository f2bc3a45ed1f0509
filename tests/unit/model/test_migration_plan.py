"""A target environment from what both ends have: what is added, what is left as the user wrote it, what is missing."""

from __future__ import annotations

from typing import Any

import msgspec

from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.migration_plan import Plan, make_plan
from coriolis.model.network import CloudConfiguration, Network, SecurityGroup, SecurityRule, StorageType, Subnet
from coriolis.model.network_mapping import Takes
from coriolis.model.survey import surveyed

OPENSTACK = Takes(
    ("create_missing_networks", "network_map", "security_groups", "storage_map", "volume_type"),
    storage_member="volume_type",
)
VSPHERE = Takes(("datastore", "network_map", "storage_map"), storage_member="datastore", storage_required=True)
LAN = Network("lan", "n-1", (Subnet("lan-subnet", "10.0.0.0/24", gateway="10.0.0.1"),))
OUT = Network("out", "n-2", (Subnet("out-subnet", "203.0.113.0/24"),), external=True)
WEB = SecurityGroup("web", "g-1", rules=(SecurityRule("ingress", remote_group="db"),))
DB = SecurityGroup("db", "g-2")
NOTHING = CloudConfiguration()
ORIGIN = CloudConfiguration((LAN, OUT), (DB, WEB))


def machine(*nics: Nic, storage: tuple[str, ...] = ("",)) -> MachineSpec:
    disks = tuple(Disk(f"d{n}", 1, storage_backend_identifier=one) for n, one in enumerate(storage))
    return MachineSpec("i", "vm", 1, 512, devices=Devices(nics=nics, disks=disks))


def nic(network: str, *groups: str) -> Nic:
    return Nic(network, None, network_id={"lan": "n-1", "out": "n-2"}.get(network, ""), security_groups=groups)


def plan(
    machine: MachineSpec, there: CloudConfiguration = NOTHING, takes: Takes = OPENSTACK, **environment: Any
) -> Plan:
    return make_plan([machine], ORIGIN, there, takes, environment)


def test_what_is_found_is_added_and_what_was_written_stays() -> None:
    there = CloudConfiguration(
        (Network("private", "p", (Subnet("s", "10.0.0.0/24", gateway="10.0.0.1"),)),), (), (StorageType("fast", "t"),)
    )
    found = plan(
        machine(nic("lan"), nic("out"), storage=("fast", "slow")), there, network_map={"out": "s"}, keep_ips=True
    )
    assert found.missing == ()
    assert found.target_environment == {
        "network_map": {"lan": "private", "out": "s"},
        "keep_ips": True,
        "storage_map": {"fast": "fast"},
    }


def test_one_name_for_two_networks_becomes_an_id_or_a_question() -> None:
    twins = CloudConfiguration((Network("lan", "a"), Network("lan", "b", LAN.subnets)))
    assert "several have the name lan: a, b" in plan(machine(nic("lan")), twins).missing[0]
    other = CloudConfiguration((Network("x", "a"), Network("x", "b", LAN.subnets)))
    assert plan(machine(nic("lan")), other).target_environment["network_map"] == {"lan": "b"}


def test_a_missing_network_can_be_made_only_where_it_is_described() -> None:
    absent = plan(machine(nic("lan")))
    assert "Or let create_missing_networks make it" in absent.missing[0]
    assert "--network 'lan=NAME'" in absent.missing[0]
    assert "create_missing_networks" not in plan(machine(nic("lan")), takes=VSPHERE, datastore="d").missing[0]
    made = plan(machine(nic("lan")), create_missing_networks=True)
    assert (made.missing, made.networks) == ((), (LAN,))
    assert "network_map" not in made.target_environment
    outward = plan(machine(nic("out")), create_missing_networks=True)
    assert "leads out of its cloud" in outward.missing[0]
    assert outward.networks == ()


def test_security_groups_are_carried_over_made_or_missing() -> None:
    spec = machine(nic("lan", "web"))
    there = CloudConfiguration((Network("lan", "l"),), (WEB,))
    assert plan(spec, there).target_environment["security_groups"] == ["web"]
    bare = CloudConfiguration((Network("lan", "l"),))
    assert "security group 'web'" in plan(spec, bare).missing[0]
    assert plan(spec, bare, security_groups=["own"]).missing == ()
    made = plan(spec, bare, create_missing_networks=True)
    assert (made.missing, made.security_groups) == ((), (DB, WEB)), "rules of web name db"
    assert plan(spec, bare, VSPHERE, datastore="d").missing == (), "vSphere has none"
    mixed = plan(machine(nic("lan", "web"), nic("lan", "db")), CloudConfiguration((LAN,), (DB, WEB)))
    assert "security_groups" not in mixed.target_environment
    assert "different security groups" in mixed.notes[0]


def test_a_destination_without_a_default_must_be_told_where_disks_go() -> None:
    one, two = StorageType("ds1", "ds1"), StorageType("ds2", "ds2")
    spec = machine(storage=("", "fast"))
    only = plan(spec, CloudConfiguration(storage_types=(one,)), VSPHERE)
    assert only.target_environment == {"datastore": "ds1", "storage_map": {"fast": "ds1"}}
    several = plan(spec, CloudConfiguration(storage_types=(one, two)), VSPHERE)
    assert len(several.missing) == 2
    assert "choose where disks go: ds1, ds2" in several.missing[0]
    said = plan(spec, CloudConfiguration(storage_types=(one, two)), VSPHERE, datastore="ds2")
    assert (said.missing, said.target_environment) == ((), {"datastore": "ds2"})
    assert "nowhere, which is not there" in plan(spec, takes=VSPHERE, datastore="nowhere").missing[0]


def test_a_disk_that_is_mapped_alone_asks_for_nothing() -> None:
    mappings = {"disk_mappings": [{"disk_id": "d0", "destination": "ds1"}]}
    there = CloudConfiguration(storage_types=(StorageType("ds1"), StorageType("ds2")))
    assert plan(machine(storage=("fast",)), there, VSPHERE, storage_mappings=mappings).missing == ()


def test_disks_that_have_no_room_where_they_go_are_noted() -> None:
    gib = 1 << 30
    tight = StorageType("ds", "datastore-1", free_bytes=3 * gib)
    twin, wide = StorageType("ds", "datastore-2", free_bytes=9 * gib), StorageType("wide", "wide", free_bytes=9 * gib)
    specs = [
        MachineSpec(
            "i", name, 1, 512, devices=Devices(disks=(Disk(f"{name}-0", 2 * gib), Disk(f"{name}-1", gib, "san")))
        )
        for name in ("a", "b")
    ]

    def notes(*there: StorageType, takes: Takes = VSPHERE, **environment: Any) -> str:
        return "; ".join(make_plan(specs, NOTHING, CloudConfiguration((), (), there), takes, environment).notes)

    together = "storage 'ds' has 3.0 GiB left, and the disks that go there have 6.0 GiB"
    assert together in notes(tight)
    assert together in notes(tight, wide, datastore="ds")
    assert together in notes(tight, twin, datastore="datastore-1")
    assert together not in notes(tight, twin, datastore="datastore-2")
    assert notes(tight, wide, datastore="wide") == ""
    assert notes(msgspec.structs.replace(tight, free_bytes=None)) == ""
    by_disk = {"disk_mappings": [{"disk_id": f"{name}-0", "destination": "ds"} for name in "ab"]}
    assert "4.0 GiB" in notes(tight, wide, datastore="wide", storage_mappings=by_disk)
    assert "GiB" not in notes(tight, wide, takes=Takes(("network_map",))), "who knows where they go"
    assert together in notes(tight, takes=Takes(("network_map",))), "there is no other"
    assert "cannot be used now" in notes(msgspec.structs.replace(wide, usable=False))


def test_names_that_are_taken_as_they_are() -> None:
    image, libvirt = Takes(("network_map",), ("*",)), Takes(("network_map",), ("bridge:*",))
    assert plan(machine(nic("dmz")), takes=image).target_environment == {"network_map": {"dmz": "dmz"}}
    assert plan(machine(nic("dmz")), takes=libvirt, network_map={"dmz": "bridge:br0"}).missing == ()
    assert plan(machine(nic("dmz")), takes=libvirt).missing
    assert plan(machine(nic("dmz")), takes=libvirt, network_map={"dmz": "br0"}).missing


def test_a_survey_holds_what_fits_and_says_how_much_does_not() -> None:
    many = tuple(Network(f"network-{number:04}", str(number)) for number in range(100))
    cut = surveyed(CloudConfiguration(many, (DB,), (StorageType("fast"),)), "full", OPENSTACK, max_bytes=1000)
    assert len(msgspec.json.encode(cut)) <= 1000
    assert cut.storage_types == (StorageType("fast"),)
    assert 0 < len(cut.networks) < 100
    assert len(cut.networks) + len(cut.security_groups) + 1 + cut.left_out == 102
    assert surveyed(CloudConfiguration(many), "full").left_out == 0
