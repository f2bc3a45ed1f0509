"""What is decided of a machine in OpenStack: flavor, networks, properties, quotas, data path, the server's body."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("openstack")
from coriolis.errors import Conflict, Corrupt, InvalidInput, QuotaExceeded
from coriolis.model.machine import Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag
from coriolis.model.storage_choice import storage_of
from coriolis.providers.openstack import flavors, marks
from coriolis.providers.openstack.cinder_volumes import gigabytes, parse, pick, volume_of
from coriolis.providers.openstack.data_path import Ways, choose
from coriolis.providers.openstack.flavors import Flavor
from coriolis.providers.openstack.guest_properties import guest_properties
from coriolis.providers.openstack.instances import check_request, needs
from coriolis.providers.openstack.network_choice import Network, Subnet, find, place, port_body
from coriolis.providers.openstack.quotas import Limit, check_fits
from coriolis.providers.openstack.server_plan import ServerPlan, decode, encode, server_body

FLAVORS = [
    Flavor("1", "tiny", 1, 512),
    Flavor("2", "small", 1, 2048, 20),
    Flavor("3", "wide", 4, 2048, 40),
    Flavor("4", "large", 4, 8192, 80),
    Flavor("5", "gone", 8, 8192, usable=False),
    Flavor("6", "twin", 1, 1024),
    Flavor("7", "twin", 2, 1024),
]
NETWORKS = [Network("n1", "private"), Network("n2", "public"), Network("n3", "twin"), Network("n4", "twin")]
SUBNETS = [
    Subnet("s1", "office", "n1", "10.0.0.0/24"),
    Subnet("s2", "office6", "n1", "fd00::/64"),
    Subnet("s3", "dmz", "n2", "172.24.4.0/24"),
    Subnet("s4", "dmz", "n3", "10.9.0.0/24"),
]


def spec(disks: int = 1, nics: tuple[Nic, ...] = (), **members: Any) -> MachineSpec:
    devices = Devices(disks=tuple(Disk(f"d{n}", 5 << 30) for n in range(disks)), nics=nics)
    return MachineSpec("vm-1", "web", 2, 1024, devices=devices, **members)


def request(of: MachineSpec, **environment: Any) -> InstanceRequest:
    instance = "6f1c9c1e-6d0b-5a53-9a3e-0c5b2f6f7a11"
    return InstanceRequest("web", instance, Tag("job", "0/instance"), of, (), {}, environment)


@pytest.mark.parametrize(
    ("vcpus", "ram", "image", "chosen"),
    [
        (1, 1, 0, "1"),
        (1, 513, 0, "6"),
        (2, 600, 0, "7"),
        (1, 2048, 0, "2"),
        (2, 2048, 0, "3"),
        (4, 2049, 0, "4"),
        (1, 1, 1, "2"),
        (1, 1, 21, "3"),
    ],
)
def test_best_flavor(vcpus: int, ram: int, image: int, chosen: str) -> None:
    assert flavors.choose(FLAVORS, "", vcpus, ram, image).id == chosen


def test_flavors_refused() -> None:
    with pytest.raises(InvalidInput, match="no flavor has 8 CPUs, 9000 MiB"):
        flavors.choose(FLAVORS, "", 8, 9000)
    with pytest.raises(InvalidInput, match="81 GiB of disk"):
        flavors.choose(FLAVORS, "", 1, 1, 81)
    with pytest.raises(InvalidInput, match=r"there is no flavor huge\\n; known: tiny \(1 CPUs, 512 MiB\)"):
        flavors.choose(FLAVORS, "huge\n", 1, 1)
    with pytest.raises(Conflict, match="give the id"):
        flavors.choose(FLAVORS, "twin", 1, 1)
    with pytest.raises(InvalidInput, match="boot_from volume"):
        flavors.choose(FLAVORS, "tiny", 1, 1, 5)
    assert flavors.choose(FLAVORS, "7", 9, 99999).name == "twin"  # whoever names one means it


@given(st.integers(1, 9), st.integers(1, 9000))
def test_best_flavor_holds_the_machine_and_none_smaller_does(vcpus: int, ram: int) -> None:
    fit = [one for one in FLAVORS if one.usable and one.vcpus >= vcpus and one.ram_mb >= ram]
    if not fit:
        with pytest.raises(InvalidInput):
            flavors.choose(FLAVORS, "", vcpus, ram)
        return
    found = flavors.choose(FLAVORS, "", vcpus, ram)
    assert found in fit
    assert found.ram_mb == min(one.ram_mb for one in fit)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("private", ("n1", "")),
        ("n2", ("n2", "")),
        ("office6", ("n1", "s2")),
        ("s3", ("n2", "s3")),
        ("public/dmz", ("n2", "s3")),
        ("n4", ("n4", "")),
    ],
)
def test_networks_found(wanted: str, found: tuple[str, str]) -> None:
    assert find(wanted, NETWORKS, SUBNETS) == found


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ("twin", Conflict),
        ("dmz", Conflict),
        ("nowhere", InvalidInput),
        ("private/dmz", InvalidInput),
        ("x/y", InvalidInput),
    ],
)
def test_networks_refused(wanted: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="network_map"):
        find(wanted, NETWORKS, SUBNETS)


def test_addresses_that_are_kept() -> None:
    nic = Nic("lan", "52:54:00:00:00:01", ip_addresses=("10.0.0.7/24", "fe80::1", "192.168.1.1", "fd00::5", "junk"))
    (kept,) = place(request(spec(nics=(nic,)), keep_ips=True, network_map={"lan": "private"}), NETWORKS, SUBNETS)
    assert kept.fixed_ips == (("s1", "10.0.0.7"), ("s2", "fd00::5"))
    assert kept.lost_ips == ("192.168.1.1",)
    body = port_body(kept, "p", "coriolis:job:r", ["g"])
    assert body["fixed_ips"][0] == {"subnet_id": "s1", "ip_address": "10.0.0.7"}
    assert (body["mac_address"], body["security_groups"]) == (nic.mac_address, ["g"])
    (plain,) = place(request(spec(nics=(nic,)), network_map={"lan": "office"}), NETWORKS, SUBNETS)
    assert (plain.fixed_ips, plain.subnet_id) == ((), "s1")
    assert "mac_address" not in port_body(plain, "p", "t", (), mac=False)
    with pytest.raises(InvalidInput, match="no entry for the origin network lan"):
        place(request(spec(nics=(nic,))), NETWORKS, SUBNETS)


def test_a_network_without_port_security_takes_no_groups() -> None:
    """Neutron refuses a port with groups there; the machine's other NICs keep theirs."""
    open_network = Network("n5", "wire", filtered=False)
    nics = (Nic("lan", None), Nic("trunk", None))
    wired = request(spec(nics=nics), network_map={"lan": "private", "trunk": "wire"})
    bodies = [port_body(one, "p", "t", ["g"]) for one in place(wired, [*NETWORKS, open_network], SUBNETS)]
    assert [one.get("security_groups") for one in bodies] == [["g"], None]


def test_guest_properties() -> None:
    assert guest_properties(spec(), {}) == {
        "hw_disk_bus": "virtio",
        "hw_vif_model": "virtio",
        "hw_qemu_guest_agent": "yes",
        "os_type": "linux",
    }
    many = guest_properties(spec(21), {})
    assert (many["hw_disk_bus"], many["hw_scsi_model"]) == ("scsi", "virtio-scsi")
    assert guest_properties(spec(20), {})["hw_disk_bus"] == "virtio"
    efi = guest_properties(spec(firmware_type="EFI", secure_boot=True, vtpm=True, os_type="windows"), {})
    assert efi["hw_firmware_type"] == "uefi"
    assert efi["hw_machine_type"] == "q35"
    assert efi["os_secure_boot"] == "required"
    assert (efi["hw_tpm_version"], efi["hw_tpm_model"], efi["os_type"]) == ("2.0", "tpm-crb", "windows")
    with pytest.raises(InvalidInput, match="q35"):
        guest_properties(spec(firmware_type="EFI"), {"machine": "pc"})


def test_quotas() -> None:
    limits = {"cores": Limit(4, 3), "memory": Limit(4096, 0), "gigabytes": Limit(-1, 900)}
    check_fits(limits, {"cores": 1, "memory": 4096, "gigabytes": 10**6, "ports": 7})
    with pytest.raises(QuotaExceeded, match=r"cores: 1 left of 4, 2 needed; memory: 4096 MiB left of 4096 MiB, 4097"):
        check_fits(limits, {"cores": 2, "memory": 4097})
    with pytest.raises(QuotaExceeded, match="0 left of 2"):
        check_fits({"volumes": Limit(2, 5)}, {"volumes": 1})  # a quota that was lowered below its use
    machine = spec(3, (Nic("lan", None), Nic("lan", None)))
    assert needs(request(machine), 2, 64) == {
        "volumes": 3,
        "gigabytes": 15,
        "instances": 1,
        "cores": 2,
        "memory": 64,
        "ports": 2,
    }
    assert needs(request(machine, as_template=True), 2, 64) == {"volumes": 3, "gigabytes": 15}


def test_data_paths() -> None:
    assert choose("auto", Ways("", "")) == "attach"
    assert choose("auto", Ways("no drivers", "")) == "upload"
    assert choose("upload", Ways("", "")) == "upload"
    with pytest.raises(InvalidInput, match="data_path attach does not work on this agent: no drivers"):
        choose("attach", Ways("no drivers", ""))
    with pytest.raises(InvalidInput, match="no drivers; no folder"):
        choose("auto", Ways("no drivers", "no folder"))


@given(st.integers(0, 1 << 45))
def test_gibibytes_hold_the_disk(size: int) -> None:
    assert gigabytes(size) << 30 >= max(size, 1)
    assert (gigabytes(size) - 1) << 30 < max(size, 1)


def volume(name: str, identity: str, created: str, tag: str = "coriolis:job:disk-0", **members: Any) -> dict[str, Any]:
    metadata = {marks.TAG: tag, marks.JOB: "job", marks.SIZE: "512"}
    return {
        "id": identity,
        "name": name,
        "status": "available",
        "size": 1,
        "created_at": created,
        "metadata": metadata,
        **members,
    }


def test_of_two_volumes_of_a_name_the_older_serves() -> None:
    rows = [
        volume("v", "b", "2"),
        volume("v", "a", "2"),
        volume("v", "z", "1", status="deleting"),
        volume("v", "c", "3"),
    ]
    found, others = pick("v", Tag("job", "disk-0"), rows)
    assert found is not None
    assert (found.id, [one.id for one in others]) == ("a", ["b", "c"])
    assert pick("v", Tag("job", "disk-0"), []) == (None, [])
    for foreign in ({"metadata": {}}, {"metadata": {marks.TAG: "coriolis:other:disk-0", marks.SIZE: "512"}}):
        with pytest.raises(Conflict, match="is not ours"):
            pick("v", Tag("job", "disk-0"), [{**volume("v", "a", "1"), **foreign}])


def test_only_storage_that_promises_zeroes_reads_as_zero() -> None:
    for driver, zero in (("nfs", True), ("rbd", True), ("iscsi", False), ("nova", False), ("", False)):
        document = volume("v", "a", "1")
        document["metadata"][marks.DRIVER] = driver
        found = parse(document)
        assert found is not None
        assert volume_of(found).fresh_is_zero is zero


def test_storage_of_a_disk() -> None:
    disk = Disk("d1", 1, storage_backend_identifier="ds1")
    assert storage_of(disk, {}) == ""
    assert storage_of(disk, {"storage": "x"}) == "x"
    assert storage_of(disk, {"storage": "x", "storage_map": {"ds1": "y"}}) == "y"
    mappings: dict[str, Any] = {"default": "a", "backend_mappings": [{"source": "ds1", "destination": "b"}]}
    assert storage_of(disk, {"storage_mappings": mappings}) == "b"
    mappings["disk_mappings"] = [{"disk_id": "d1", "destination": "c"}]
    assert storage_of(disk, {"storage_mappings": mappings}) == "c"
    assert storage_of(Disk("d9", 1), {"storage_mappings": mappings}) == "a"
    assert storage_of(disk, {"storage_mappings": None, "storage_map": None}) == ""


names = st.text(min_size=1, max_size=255)


@given(names, st.lists(st.uuids().map(str), max_size=26), st.lists(st.uuids().map(str), max_size=32))
def test_a_plan_survives_metadata(name: str, volumes: list[str], ports: list[str]) -> None:
    plan = ServerPlan("i", "job", "coriolis:job:r", name, "f", tuple(volumes), tuple(ports), origin=name)
    parts = marks.cut(encode(plan))
    assert all(len(part) <= 255 and part.isascii() for part in parts.values())
    assert decode(marks.joined({**parts, "other": "x"})) == plan


def test_plans_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        marks.cut("x" * 255 * 65)
    with pytest.raises(Corrupt):
        decode('{"instance_id": 7}')


def test_server_body() -> None:
    plan = ServerPlan("i", "job", "coriolis:job:r", "web", "f", ("v1", "v2"), ("p1",), key="k", zone="z", group="g")
    body = server_body(plan)
    server = body["server"]
    assert [
        (one["boot_index"], one["uuid"], one["delete_on_termination"]) for one in server["block_device_mapping_v2"]
    ] == [
        (0, "v1", False),
        (1, "v2", False),
    ]
    assert server["networks"] == [{"port": "p1"}]
    assert server["tags"] == ["coriolis-job-job", "coriolis-i"]
    assert (server["key_name"], server["availability_zone"]) == ("k", "z")
    assert body["os:scheduler_hints"] == {"group": "g"}
    image = server_body(ServerPlan("i", "job", "t", "web", "f", ("v2",), image="img"))["server"]
    assert [(one["boot_index"], one["source_type"]) for one in image["block_device_mapping_v2"]] == [
        (0, "image"),
        (1, "volume"),
    ]
    assert (image["imageRef"], image["networks"]) == ("img", "none")


def test_requests_refused() -> None:
    with pytest.raises(InvalidInput, match="without disks"):
        check_request(request(spec(0)))
    with pytest.raises(InvalidInput, match="printable"):
        check_request(InstanceRequest("a\nb", request(spec()).instance_id, Tag("j", "r"), spec(), ()))
    with pytest.raises(InvalidInput, match="target_environment"):
        check_request(request(spec(), flavour="x"))
    with pytest.raises(InvalidInput, match="data_path"):
        check_request(request(spec(), data_path="pigeon"))
