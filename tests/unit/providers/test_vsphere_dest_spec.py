"""What a machine for vSphere looks like before vSphere sees it: names, controllers, addresses, networks, places."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pyVmomi")

from pyVmomi import vim

from coriolis.convert.platforms import target_platform
from coriolis.errors import Conflict, CoriolisError, Corrupt, InvalidInput, QuotaExceeded, Unsupported
from coriolis.ids import new_id
from coriolis.model.machine import Controller, Devices, Disk, MachineSpec, Nic
from coriolis.model.resource import InstanceRequest, Tag, Volume
from coriolis.providers.vmware_vsphere.configuration import DISTRIBUTED, OPAQUE
from coriolis.providers.vmware_vsphere.guest_id import KNOWN, guest_id_of
from coriolis.providers.vmware_vsphere.import_lease import DiskFile, match_urls
from coriolis.providers.vmware_vsphere.import_spec import (
    controller_of,
    disk_places,
    import_spec,
    networks_of,
    nic_type_of,
    storage_of,
    tag_in,
    vsphere_name,
)
from coriolis.providers.vmware_vsphere.placement import (
    Compute,
    Network,
    Place,
    Store,
    Survey,
    Thing,
    choose_place,
)

CARD = vim.vm.device.VirtualEthernetCard


def spec(**changes: Any) -> MachineSpec:
    return MachineSpec(**{"id": "o", "name": "web", "num_cpu": 2, "memory_mb": 512, **changes})


def request(one: MachineSpec, volumes: tuple[Volume, ...] = (), **environment: Any) -> InstanceRequest:
    return InstanceRequest("web", new_id(), Tag("job", "0-instance"), one, volumes, {}, environment)


def test_names() -> None:
    assert vsphere_name("a/b\\c 100%") == "a%2fb%5cc 100%25"
    assert vsphere_name("Ω" * 80)
    for wrong in ("", " ", "a" * 81, "/" * 27, "a\nb", "a\x00"):
        with pytest.raises(InvalidInput, match="instance_name"):
            vsphere_name(wrong)


def test_controllers_and_units() -> None:
    places = disk_places("pvscsi", 60)
    assert len(set(places)) == 60
    assert {bus for bus, _ in places} == {0, 1, 2, 3}
    assert 7 not in {unit for _, unit in places}, "the controller's own"
    assert max(unit for _, unit in places) == 15
    assert disk_places("sata", 31)[-1] == (1, 0)
    assert disk_places("nvme", 15)[-1] == (0, 14)
    for kind, most in (("pvscsi", 60), ("lsilogic-sas", 60), ("nvme", 60), ("sata", 120)):
        assert len(disk_places(kind, most)) == most
        with pytest.raises(Unsupported, match=f"at most {most}"):
            disk_places(kind, most + 1)


def test_the_hardware_is_what_the_guest_has_drivers_for() -> None:
    windows = spec(os_type="windows")
    ran_on_pvscsi = spec(os_type="windows", devices=Devices(controllers=(Controller("1000", "pvscsi"),)))
    assert (controller_of(spec(), ""), nic_type_of(spec(), "")) == ("pvscsi", "vmxnet3")
    assert (controller_of(windows, ""), nic_type_of(windows, "")) == ("lsilogic-sas", "e1000e")
    assert (controller_of(ran_on_pvscsi, ""), nic_type_of(ran_on_pvscsi, "")) == ("pvscsi", "vmxnet3")
    assert (controller_of(spec(), "nvme"), nic_type_of(windows, "vmxnet3")) == ("nvme", "vmxnet3")


def test_guest_ids() -> None:
    assert guest_id_of(spec(guest_id="rhel9_64Guest"), "") == "rhel9_64Guest"
    assert guest_id_of(spec(guest_id="rhel9_64Guest"), "ubuntu64Guest") == "ubuntu64Guest"
    assert guest_id_of(spec(guest_id="http://debian.org/debian/12"), "") == "debian10_64Guest"
    for system in ("linux", "windows", "bsd", "solaris", "osx", "other"):
        assert guest_id_of(spec(os_type=system, guest_id="debian-no-guest"), "") in KNOWN
    with pytest.raises(InvalidInput, match=r"near to it: .*ubuntu64Guest"):
        guest_id_of(spec(), "ubuntu64")


def test_where_each_disk_goes() -> None:
    disks = tuple(Disk(f"d{i}", 1, storage_backend_identifier=f"san-{i}") for i in range(3))
    volumes = (Volume("a", "a", 1, attributes={"datastore": "own"}), Volume("b", "b", 1), Volume("c", "c", 1))
    made = request(spec(devices=Devices(disks=disks)), volumes, datastore="common", storage_map={"san-1": "mapped"})
    assert storage_of(made) == ["own", "mapped", "common"]
    assert storage_of(request(spec(), datastore="common")) == ["common"]
    with pytest.raises(InvalidInput, match="no datastore"):
        storage_of(request(spec()))


def test_every_kind_of_network_is_plugged_in_its_way() -> None:
    nics = tuple(Nic(name, None) for name in ("a", "b", "c"))
    place = Place(
        folder=Thing("group-1", "vm", "/DC/vm"),
        compute=Compute("domain-c1", "C", "/DC/host/C"),
        pool=Thing("resgroup-1", "Resources", "/DC/host/C/Resources"),
        host="",
        stores=(Store("datastore-1", "ds", "ds"),),
        networks=(
            Network("network-1", "VM Network", "VM Network"),
            Network("dvportgroup-1", "pg", "pg", kind=DISTRIBUTED, key="dvportgroup-1", switch="50 2d"),
            Network("network-o1", "nsx", "nsx", kind=OPAQUE, key="6c-1", switch="nsx.LogicalSwitch"),
        ),
    )
    made = import_spec(request(spec(devices=Devices(nics=nics))), place, [], ("52:54:00:00:00:01", "", ""))
    cards = [one.device for one in made.configSpec.deviceChange if isinstance(one.device, CARD)]
    assert [(card.addressType, card.macAddress) for card in cards] == [
        ("manual", "52:54:00:00:00:01"),
        ("generated", None),
        ("generated", None),
    ]
    plain, port, opaque = [card.backing for card in cards]
    assert plain.deviceName == "VM Network"
    assert (port.port.portgroupKey, port.port.switchUuid) == ("dvportgroup-1", "50 2d")
    assert (opaque.opaqueNetworkId, opaque.opaqueNetworkType) == ("6c-1", "nsx.LogicalSwitch")
    with pytest.raises(Unsupported, match="at most 10"):
        networks_of(request(spec(devices=Devices(nics=(Nic("a", None),) * 11)), network_map={"a": "b"}))
    with pytest.raises(QuotaExceeded):
        import_spec(request(spec()), place, [63 << 40], ())


def survey() -> Survey:
    """Two datacenters, each with a cluster ``C`` and a pool ``p``; in the first two networks of one name."""
    computes, pools, folders, parents, stores = {}, {}, {}, {}, {}
    for dc in ("A", "B"):
        parents[f"dc-{dc}"] = (dc, "")
        folders[f"vm-{dc}"] = Thing(f"vm-{dc}", "vm", f"/{dc}/vm", f"dc-{dc}")
        folders[f"sub-{dc}"] = Thing(f"sub-{dc}", "sub", f"/{dc}/vm/sub", f"vm-{dc}")
        parents[f"host-{dc}"] = ("host", f"dc-{dc}")
        networks = ("n1", "n2") if dc == "A" else ()
        computes[f"c-{dc}"] = Compute(
            f"c-{dc}", "C", f"/{dc}/host/C", f"host-{dc}", f"root-{dc}", networks, (f"ds-{dc}", f"bad-{dc}")
        )
        for name in ("root", "p"):
            pools[f"{name}-{dc}"] = Thing(f"{name}-{dc}", name, f"/{dc}/host/C/{name}", f"c-{dc}")
        stores[f"ds-{dc}"] = Store(f"ds-{dc}", "ds", "ds", free_bytes=1)
        stores[f"bad-{dc}"] = Store(f"bad-{dc}", "bad", "bad", usable=False)
    networks_by_id = {one: Network(one, "lan", "lan") for one in ("n1", "n2")}
    hosts = {"h-A": Thing("h-A", "esx1", "/A/host/C/esx1", "c-A")}
    roots = {"dc-A": "vm-A", "dc-B": "vm-B"}
    return Survey(computes, pools, hosts, folders, stores, networks_by_id, roots, parents)


@pytest.mark.parametrize(
    ("environment", "pool", "folder", "host"),
    [
        ({"cluster": "/A/host/C"}, "root-A", "vm-A", ""),
        ({"cluster": "c-B"}, "root-B", "vm-B", ""),
        ({"host": "esx1", "folder": "sub"}, "root-A", "sub-A", "h-A"),
        ({"resource_pool": "/B/host/C/p", "folder": "/B/vm/sub/"}, "p-B", "sub-B", ""),
        ({"host": "esx1", "resource_pool": "p"}, "p-A", "vm-A", "h-A"),
    ],
)
def test_places(environment: dict[str, str], pool: str, folder: str, host: str) -> None:
    place = choose_place(survey(), environment, ["ds"], [])
    assert (place.pool.id, place.folder.id, place.host) == (pool, folder, host)
    assert place.stores[0].id == f"ds-{pool[-1]}", "the datastore of this cluster, not its namesake"


@pytest.mark.parametrize(
    ("environment", "networks", "error", "says"),
    [
        ({"cluster": "C"}, [], Conflict, r"name one by path or id: /A/host/C \(c-A\), /B/host/C \(c-B\)"),
        ({"resource_pool": "p"}, [], Conflict, "2 things are called p as resource_pool"),
        ({}, [], InvalidInput, "2 to choose from: /A/host/C, /B/host/C"),
        ({"cluster": "c-A"}, ["lan"], Conflict, r"lan \(n1\), lan \(n2\)"),
        ({"cluster": "c-B"}, ["lan"], InvalidInput, "no network lan at C; known: none"),
        ({"cluster": "c-A", "folder": "/B/vm"}, [], InvalidInput, "no folder /B/vm; known: /A/vm, /A/vm/sub"),
    ],
)
def test_places_that_are_unclear(
    environment: dict[str, str], networks: list[str], error: type[CoriolisError], says: str
) -> None:
    with pytest.raises(error, match=says):
        choose_place(survey(), environment, ["ds"], networks)


def test_a_datastore_in_maintenance_is_refused() -> None:
    with pytest.raises(InvalidInput, match="maintenance"):
        choose_place(survey(), {"cluster": "c-A"}, ["bad"], [])


def test_urls_find_their_disks() -> None:
    disks = [DiskFile("a", 1, 0, 0), DiskFile("b", 1, 0, 1), DiskFile("c", 1, 1, 0)]
    keys = [f"/vm-42/ParaVirtualSCSIController{place}" for place in ("1:0", "0:0", "0:1")]
    assert match_urls(keys, disks) == [2, 0, 1]
    assert match_urls(["/vm-42/disk:0", "/vm-42/disk:1", "/vm-42/disk:2"], disks) == [0, 1, 2]
    for wrong in (keys[:2], [*keys[:2], "/vm-42/nvram"], [*keys[:2], keys[0]], [*keys, "/vm-42/x0:9"]):
        with pytest.raises(Corrupt, match="not the 3 disks"):
            match_urls(wrong, disks)


def test_the_tag_in_a_machines_notes() -> None:
    assert tag_in("coriolis:job:0-instance\nand more") == Tag("job", "0-instance")
    for notes in ("", "notes of somebody\ncoriolis:job:0", "coriolis:"):
        assert tag_in(notes) is None


def test_conversion_brings_the_drivers_of_every_device_that_can_be_chosen() -> None:
    platform = target_platform("vmware")
    assert {"vmw_pvscsi", "mptsas", "ahci", "nvme", "sd_mod"} <= set(platform.initramfs_modules)
    assert {"vmxnet3", "e1000e"} <= set(platform.network)
    assert "open-vm-tools" in platform.agents
