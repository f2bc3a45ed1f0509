"""Networks and storage as surveys tell them: from libvirt's XML, from vSphere's properties."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coriolis.model.network import Network, StorageType, Subnet

GIB = 1 << 30


def test_a_libvirt_network_with_both_kinds_of_addresses() -> None:
    from coriolis.providers.libvirt.host_configuration import network_of

    xml = """<network><name>lan</name><forward mode='nat'/><bridge name='virbr7' stp='on'/><mtu size='9000'/>
      <ip address='10.1.2.1' netmask='255.255.255.0'><dhcp><range start='10.1.2.10' end='10.1.2.99'/></dhcp></ip>
      <ip family='ipv6' address='fd00:1::1' prefix='64'/>
      <ip family='ipv6' address='fd00:2::1' prefix='64'><dhcp><range start='fd00:2::5' end='fd00:2::9'/></dhcp></ip>
      </network>"""
    assert network_of(xml) == Network(
        "lan",
        "lan",
        (
            Subnet("", "10.1.2.0/24", gateway="10.1.2.1", pools=(("10.1.2.10", "10.1.2.99"),)),
            Subnet("", "fd00:1::/64", gateway="fd00:1::1", ipv6_ra_mode="slaac", ipv6_address_mode="slaac"),
            Subnet(
                "",
                "fd00:2::/64",
                gateway="fd00:2::1",
                pools=(("fd00:2::5", "fd00:2::9"),),
                ipv6_ra_mode="dhcpv6-stateful",
                ipv6_address_mode="dhcpv6-stateful",
            ),
        ),
        mtu=9000,
        kind="nat",
        bridge="virbr7",
    )


@pytest.mark.parametrize(
    ("inside", "network"),
    [
        ("", Network("n", "n", kind="isolated")),
        ("<forward/>", Network("n", "n", kind="nat")),
        ("<forward mode='bridge'/><bridge name='br0'/>", Network("n", "n", kind="bridge", bridge="br0")),
        (
            "<forward mode='bridge'/><vlan trunk='yes'><tag id='42'/><tag id='47'/></vlan>",
            Network("n", "n", kind="bridge", vlan="42, 47"),
        ),
        (
            "<ip address='172.16.5.4'/><ip family='ipv6'/>",
            Network("n", "n", (Subnet("", "172.16.0.0/16", dhcp=False),), kind="isolated"),
        ),
    ],
)
def test_libvirt_networks(inside: str, network: Network) -> None:
    from coriolis.providers.libvirt.host_configuration import network_of

    assert network_of(f"<network><name>n</name>{inside}</network>") == network


def test_libvirt_pools() -> None:
    from coriolis.providers.libvirt.host_configuration import pool_of

    xml = "<pool type='netfs'><name>p</name></pool>"
    assert pool_of(xml, [2, 9, 5, 4]) == StorageType("p", "p", kind="netfs", capacity_bytes=9, free_bytes=4)
    assert pool_of(xml, [0, 0, 0, 0]) == StorageType("p", "p", kind="netfs", usable=False)


def test_vlans_of_port_groups() -> None:
    pytest.importorskip("pyVmomi")
    from pyVmomi import vim

    from coriolis.providers.vmware_vsphere.configuration import host_vlans, vlan_of

    switch = vim.dvs.VmwareDistributedVirtualSwitch
    setting = switch.VmwarePortConfigPolicy
    trunk = switch.TrunkVlanSpec(vlanId=[vim.NumericRange(start=30, end=30), vim.NumericRange(start=10, end=20)])
    cases: list[tuple[Any, str]] = [
        (setting(vlan=switch.VlanIdSpec(vlanId=12)), "12"),
        (setting(vlan=switch.VlanIdSpec(vlanId=0)), "none"),
        (setting(vlan=trunk), "10-20, 30"),
        (setting(vlan=switch.PvlanSpec(pvlanId=7)), "private 7"),
        (vim.dvs.DistributedVirtualPort.Setting(), ""),
        (None, ""),
    ]
    assert [vlan_of(config) for config, _ in cases] == [vlan for _, vlan in cases]
    group = vim.host.PortGroup.Specification
    groups = [
        vim.host.PortGroup(spec=group(name=name, vlanId=vlan, vswitchName="vSwitch0"))
        for name, vlan in (("VM%2fNet", 0), ("dmz", 12), ("all", 4095))
    ]
    assert host_vlans(groups) == {"VM/Net": "none", "dmz": "12", "all": "0-4094"}


def test_datastores() -> None:
    pytest.importorskip("pyVmomi")
    from pyVmomi import VmomiSupport

    from coriolis.providers.vmware_vsphere.configuration import store_of

    sizes = {"summary.capacity": VmomiSupport.long(9 * GIB), "summary.freeSpace": VmomiSupport.long(GIB)}
    values = {"name": "ds", "summary.type": "VMFS", **sizes}
    whole = {**values, "summary.accessible": True, "summary.maintenanceMode": "normal"}
    found = StorageType("ds", "datastore-1", kind="VMFS", capacity_bytes=9 * GIB, free_bytes=GIB)
    assert store_of("datastore-1", whole) == found
    assert msgspec.json.decode(msgspec.json.encode(store_of("datastore-1", whole)), type=StorageType) == found
    assert not store_of("datastore-1", {**whole, "summary.maintenanceMode": "inMaintenance"}).usable
    gone = store_of("datastore-1", {**whole, "summary.accessible": False})
    assert (gone.usable, gone.capacity_bytes, gone.free_bytes) == (False, None, None)
