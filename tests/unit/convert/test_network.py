from __future__ import annotations

import pytest

from coriolis.convert.linux import network
from coriolis.convert.linux.network import Bindings, Nic

A, B, C = (f"00:50:56:00:00:0{n}" for n in "abc")


def test_one_interface_gets_the_one_name() -> None:
    pins = network.choose([Nic(A)], ["ens192"], Bindings())
    assert pins.pairs == ((A, "ens192"),)
    assert pins.messages == ()


def test_hints_win_over_the_order_of_appearance() -> None:
    pins = network.choose([Nic(A), Nic(B, "ens192"), Nic(C)], ["ens192", "ens224", "ens256"], Bindings())
    assert dict(pins.pairs) == {B: "ens192", A: "ens224", C: "ens256"}


def test_a_hint_that_the_guest_does_not_configure_is_none() -> None:
    pins = network.choose([Nic(A, "Network adapter 1")], ["ens192"], Bindings())
    assert pins.pairs == ((A, "ens192"),)


def test_what_the_guest_binds_is_left_alone() -> None:
    link = f"[Match]\nMACAddress={A.upper()}\n[Link]\nName=ens192\n"
    rule = f'SUBSYSTEM=="net", ATTR{{address}}=="{B}", NAME="eth7"\n'
    bound = network.bindings([link], [rule, "# ATTR{address}==" + C], ["HWADDR=00-50-56-00-00-0F\n"])
    assert bound == Bindings(frozenset({A, B, "00:50:56:00:00:0f"}), frozenset({"ens192", "eth7"}))
    pins = network.choose([Nic(A), Nic(B), Nic(C)], ["ens192", "eth7", "ens224"], bound)
    assert pins.pairs == ((C, "ens224"),)


def test_a_link_file_that_sets_no_name_binds_nothing() -> None:
    assert network.bindings([f"[Match]\nMACAddress={A}\n[Link]\nMTUBytes=9000\n"], [], []) == Bindings()


def test_differing_numbers_are_reported() -> None:
    few = network.choose([Nic(A)], ["ens192", "ens224"], Bindings())
    assert few.messages == ("the guest configures ens224, but no network interface is left for it",)
    many = network.choose([Nic(A), Nic(B)], ["ens192"], Bindings())
    assert many.messages == (f"no name is configured for the interface {B}",)


def test_names_in_interfaces() -> None:
    text = "auto lo ens224\niface lo inet loopback\nallow-hotplug ens192\niface ens192 inet dhcp\nauto br0\n"
    assert network.names_in_interfaces(text) == ["ens224", "ens192"]


def test_names_in_netplan() -> None:
    text = """
network:
  version: 2
  ethernets:
    ens192:
      addresses: [10.0.0.1/24]
      nameservers: {addresses: [10.0.0.2]}
    "ens224":
      dhcp4: true
  bonds:
    bond0: {interfaces: [ens192]}
"""
    assert network.names_in_netplan(text) == ["ens192", "ens224"]


def test_names_in_other_files() -> None:
    assert network.names_in_ifcfg(["ifcfg-ens192", "ifcfg-lo", "ifcfg-bond0", "route-ens192"]) == ["ens192"]
    assert network.names_in_keyfile("[connection]\ninterface-name=ens192\n") == ["ens192"]
    assert network.names_in_keyfile("[Match]\nName=en*\n") == []


@pytest.mark.parametrize("name", ["../x", "a" * 16, "ens192\n[Link]", "-x", "a b", ""])
def test_hostile_names_never_reach_a_link_file(name: str) -> None:
    assert network.physical([name]) == []


def test_the_link_file() -> None:
    path, text = network.link_file(A, "ens192")
    assert path == "/etc/systemd/network/10-coriolis-ens192.link"
    assert f"[Match]\nMACAddress={A}\n\n[Link]\nName=ens192\n" in text
