"""Each way to configure a network: which names and MACs a text holds, and the same text with one interface by DHCP."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.convert.linux import console
from coriolis.convert.linux import network_ifcfg as ifcfg
from coriolis.convert.linux import network_interfaces as interfaces
from coriolis.convert.linux import network_keyfile as keyfile
from coriolis.convert.linux import network_netplan as netplan
from coriolis.convert.linux import network_networkd as networkd
from coriolis.convert.linux.network import Interface
from coriolis.errors import Unsupported

MAC, OTHER = "00:50:56:9a:33:44", "00:50:56:9a:33:45"
ONE, TWO = Interface(MAC, "ens192"), Interface(OTHER, "ens224")

ENI = """\
# of the installer
source /etc/network/interfaces.d/*

auto lo ens192 ens192:1
iface lo inet loopback

allow-hotplug ens224
iface ens192 inet static
	address 10.0.0.5/24
	gateway 10.0.0.1
	dns-nameservers 10.0.0.2 \\
		10.0.0.3
	mtu 9000
	post-up ip route add 10.9.0.0/16 via 10.0.0.7
	post-up /usr/local/bin/notify up
iface ens192 inet static
	address 10.0.0.6/24
iface ens192:1 inet static
	address 10.0.0.8/24
iface ens192 inet6 static
	address 2001:db8::5/64
iface ens224 inet static
	address 10.1.0.5/24
iface br0 inet static
	address 10.2.0.5/24
	bridge_ports ens256
"""


def test_interfaces() -> None:
    assert interfaces.names(ENI) == ["ens192", "ens224"]
    assert (
        interfaces.to_dhcp(ENI, ONE)
        == """\
# of the installer
source /etc/network/interfaces.d/*

auto lo ens192
iface lo inet loopback

allow-hotplug ens224
iface ens192 inet dhcp
	mtu 9000
	post-up /usr/local/bin/notify up
iface ens192 inet6 auto
iface ens224 inet static
	address 10.1.0.5/24
iface br0 inet static
	address 10.2.0.5/24
	bridge_ports ens256
"""
    )


NETPLAN = """\
network:
  version: 2
  ethernets:
    ens192:
      addresses:
      - 10.0.0.5/24   # main
      - 10.0.0.6/24
      gateway4: 10.0.0.1
      mtu: 9000
      nameservers:
          search: [a.example]
          addresses: [10.0.0.2,
             10.0.0.3]
    "ens224":
      dhcp4: no
      addresses: [10.1.0.5/24]
      routes:
        - to: 10.9.0.0/16
          via: 10.1.0.1
    uplink:
      match: {macaddress: "00:50:56:9A:33:46"}
      set-name: lan0
      addresses: [10.3.0.5/24]
    id7:
      match:
        macaddress: 00:50:56:9a:33:47
      dhcp4: true
  bonds:
    bond0:
      interfaces: [ens256]
      addresses: [10.4.0.5/24]
"""


def test_netplan() -> None:
    assert netplan.names(NETPLAN) == ["ens192", "ens224", "lan0"]
    assert netplan.bound(NETPLAN) == [("00:50:56:9a:33:46", "lan0"), ("00:50:56:9a:33:47", "")]
    first = netplan.to_dhcp(NETPLAN, ONE)
    assert first.startswith(
        'network:\n  version: 2\n  ethernets:\n    ens192:\n      dhcp4: true\n      mtu: 9000\n    "ens224":\n'
    )
    assert netplan.to_dhcp(NETPLAN, ONE).partition('    "ens224"')[2] == NETPLAN.partition('    "ens224"')[2]
    second = netplan.to_dhcp(first, TWO)
    assert '    "ens224":\n      dhcp4: true\n    uplink:\n' in second
    third = netplan.to_dhcp(second, Interface("00:50:56:9a:33:46", "lan0"))
    assert '33:46"}\n      set-name: lan0\n    id7:\n' in third
    assert netplan.to_dhcp(third, Interface("00:50:56:9a:33:47", "")) == third, "it is dynamic already"
    assert "10.4.0.5" in third


@pytest.mark.parametrize(
    "text",
    [
        "network: {ethernets: {ens192: {addresses: [10.0.0.5/24]}}}\n",
        "network:\n  ethernets: {ens192: {addresses: [10.0.0.5/24]}}\n",
        "network:\n  ethernets:\n    ens192: {addresses: [10.0.0.5/24]}\n",
        "network:\n  ethernets:\n    ens192:\n      addresses: &a [10.0.0.5/24]\n",
        "network:\n  ethernets:\n    ens192:\n      <<: *common\n",
    ],
)
def test_netplan_that_indentation_does_not_explain_is_refused(text: str) -> None:
    with pytest.raises(Unsupported, match="netplan writes ens192"):
        netplan.to_dhcp(text, ONE)


KEYFILE = f"""\
[connection]
id=lan
type=ethernet
interface-name=ens192

[ethernet]
mac-address={MAC.upper()}

[ipv4]
address1=10.0.0.5/24,10.0.0.1
address2=10.0.0.6/24
dns=10.0.0.2;
method=manual
route1=10.9.0.0/16,10.0.0.7
route1_options=mtu=1400

[ipv6]
addr-gen-mode=eui64
method=disabled
"""


def test_keyfile() -> None:
    assert keyfile.names(KEYFILE) == ["ens192"]
    assert keyfile.bound(KEYFILE) == [(MAC, "ens192")]
    new = keyfile.to_dhcp(KEYFILE, ONE)
    assert new.endswith("[ipv4]\nmethod=auto\n\n[ipv6]\naddr-gen-mode=eui64\nmethod=disabled\n")
    assert new.partition("[ipv4]")[0] == KEYFILE.partition("[ipv4]")[0]
    assert keyfile.to_dhcp(KEYFILE, TWO) == KEYFILE
    port = KEYFILE.replace("type=ethernet", "type=ethernet\nmaster=bond0")
    assert keyfile.to_dhcp(port, ONE) == port


def test_networkd() -> None:
    text = (
        "[Match]\nName=ens192 ens193\n[Network]\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nLLDP=yes\n"
        "[Address]\nAddress=10.0.0.6/24\n[Route]\nGateway=10.0.0.7\n[Link]\nMTUBytes=9000\n"
    )
    assert networkd.names(text) == ["ens192", "ens193"]
    wanted = "[Match]\nName=ens192 ens193\n[Network]\nLLDP=yes\nDHCP=yes\n[Link]\nMTUBytes=9000\n"
    assert networkd.to_dhcp(text, ONE) == wanted
    assert networkd.to_dhcp(text, TWO) == text
    assert networkd.bound(f"[Match]\nMACAddress={MAC}\n") == [(MAC, "")]
    assert networkd.names("[Match]\nName=en*\n") == []


def test_ifcfg_of_red_hat() -> None:
    text = (
        f"# comment\nDEVICE=ens192\nHWADDR={MAC.upper()}\nBOOTPROTO=none\nONBOOT=yes\nIPADDR=10.0.0.5\nPREFIX=24\n"
        "GATEWAY=10.0.0.1\nDNS1=10.0.0.2\nIPADDR1=10.0.0.6\nIPV6ADDR=2001:db8::5/64\nIPV6INIT=yes\n"
    )
    assert ifcfg.names("ifcfg-lan", text) == ["ens192"]
    assert ifcfg.names("ifcfg-ens192", "ONBOOT=yes\n") == ["ens192"]
    assert ifcfg.names("ifcfg-bond0", "") == []
    assert ifcfg.bound("ifcfg-lan", text) == [(MAC, "ens192")]
    wanted = f"# comment\nDEVICE=ens192\nHWADDR={MAC.upper()}\nBOOTPROTO=dhcp\nONBOOT=yes\nIPV6INIT=yes\n"
    assert ifcfg.to_dhcp("ifcfg-lan", text, ONE) == f"{wanted}IPV6_AUTOCONF=yes\n"
    assert ifcfg.to_dhcp("ifcfg-lan", text, TWO) == text
    port = text + "MASTER=bond0\nSLAVE=yes\n"
    assert ifcfg.to_dhcp("ifcfg-lan", port, ONE) == port
    present = ["route-ens192", "ifcfg-ens192:1", "rule-ens192", "ifcfg-ens192", "route-ens1920", "ifroute-ens192"]
    assert ifcfg.companions(ONE, present) == ["route-ens192", "ifcfg-ens192:1", "rule-ens192", "ifroute-ens192"]


def test_ifcfg_of_suse() -> None:
    text = (
        "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='10.0.0.5/24'\nIPADDR_1='10.0.0.6'\nNETMASK_1='255.255.255.0'\n"
    )
    assert ifcfg.to_dhcp("ifcfg-ens192", text, ONE) == "BOOTPROTO='dhcp'\nSTARTMODE='auto'\n"
    own = ifcfg.networks_of(text)
    assert [str(one) for one in own] == ["10.0.0.5/24", "10.0.0.6/24"]
    routes = (
        "# all\ndefault 10.0.0.1 - -\n10.8.0.0/16 10.1.0.1 - -\n10.9.0.0/16 10.1.0.1 - ens192\ndefault x - ens224\n"
    )
    wanted = "# all\n10.8.0.0/16 10.1.0.1 - -\ndefault x - ens224\n"
    assert ifcfg.routes_without(routes, ONE, own) == wanted
    assert ifcfg.without_gateway("A=b\nGATEWAY=10.0.0.1\n", ONE, own) == "A=b\n"
    assert ifcfg.without_gateway("GATEWAY=10.1.0.1\n", ONE, own) == "GATEWAY=10.1.0.1\n"
    assert ifcfg.without_gateway("GATEWAY=x\nGATEWAYDEV=ens192\n", ONE, []) == ""
    assert ifcfg.networks_of("IPADDR=300.1.1.1\nIPADDR2=\n") == []


# ---- properties: a second interface keeps every line, and what is done needs no second time -----------------------

addresses = st.lists(st.ip_addresses(v=4), min_size=1, max_size=4, unique=True)


def lines_with(text: str, hosts: list[ipaddress.IPv4Address]) -> list[str]:
    return [line for line in text.splitlines() if any(f"{host}/24" in line for host in hosts)]


@given(addresses, addresses)
def test_the_other_interface_stays(mine: list[ipaddress.IPv4Address], others: list[ipaddress.IPv4Address]) -> None:
    mine = [host for host in mine if host not in others]

    def eni(name: str, hosts: list[ipaddress.IPv4Address]) -> str:
        return f"auto {name}\n" + "".join(f"iface {name} inet static\n\taddress {host}/24\n" for host in hosts)

    def plan(name: str, hosts: list[ipaddress.IPv4Address]) -> str:
        return f"    {name}:\n      addresses:\n" + "".join(f"      - {host}/24\n" for host in hosts)

    for text, change in (
        (eni("ens192", mine) + eni("ens224", others), interfaces.to_dhcp),
        ("network:\n  ethernets:\n" + plan("ens192", mine) + plan("ens224", others), netplan.to_dhcp),
    ):
        new = change(text, ONE)
        assert lines_with(new, others) == lines_with(text, others)
        assert lines_with(new, mine) == []
        assert change(new, ONE) == new
        assert change(text, Interface("00:50:56:00:00:01", "ens999")) == text


LINES = [
    *ENI.splitlines(),
    *NETPLAN.splitlines(),
    *KEYFILE.splitlines(),
    "BOOTPROTO=none",
    "IPADDR=10.0.0.5",
    "\\",
    "{",
]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=30).map("\n".join))
def test_any_text_ends_in_a_text_or_a_reason(text: str) -> None:
    """And what was changed is not changed again."""
    for change in (
        interfaces.to_dhcp,
        netplan.to_dhcp,
        keyfile.to_dhcp,
        networkd.to_dhcp,
        lambda given_text, one: ifcfg.to_dhcp("ifcfg-ens192", given_text, one),
    ):
        try:
            new = change(text, ONE)
            assert change(new, ONE) == new
        except Unsupported:
            pass


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "nasty",
    [
        "\n" * 200_000,
        "ethernets:\n" * 20_000,
        "IPADDR=" + " " * 200_000 + "x",
        "\tup " + "ip " * 60_000,
        "set-name:" * 20_000,
        "[Match]\nName=" + "a " * 100_000,
        "iface ens192 inet static\n" * 10_000,
        "    addresses: " + "- &" * 50_000,
        "00:" * 60_000,
        "auto " + "ens192:1 " * 20_000,
    ],
)
def test_hostile_texts_take_no_time(nasty: str) -> None:
    for text in (nasty, ENI + nasty, NETPLAN + nasty, KEYFILE + nasty):
        for names_of in (interfaces.names, netplan.names, keyfile.names, networkd.names, netplan.bound):
            assert len(names_of(text)) <= 64 or names_of is netplan.bound
        for change in (interfaces.to_dhcp, keyfile.to_dhcp, networkd.to_dhcp, netplan.to_dhcp):
            try:
                change(text, ONE)
            except Unsupported:
                continue
        ifcfg.to_dhcp("ifcfg-ens192", text, ONE)
        console.in_grub(text, "ttyS0")
        console.in_defaults("GRUB_CMDLINE_LINUX=" + text, "ttyS0")
