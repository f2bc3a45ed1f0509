"""The network configuration of a phony guest, in the manner of its distribution. All addresses are static."""

from __future__ import annotations

from pathlib import Path

from tests.lab.phony_distros import MACS, Distro
from tests.lab.phony_files import put

GATEWAY = "192.168.77.1"


def address(number: int) -> str:
    """The second interface is in another network."""
    return f"192.168.77.{30 + number}" if number == 0 else f"10.20.{number}.5"


def network(top: Path, distro: Distro, host: str) -> None:
    WRITERS[distro.network](top, distro)
    if distro.nics == ("eth0",) and distro.init == "upstart":
        rule = f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{MACS[0]}", NAME="eth0"\n'
        put(top, "/etc/udev/rules.d/70-persistent-net.rules", rule)
    put(top, "/etc/hostname", f"{host}\n")
    put(top, "/etc/hosts", f"127.0.0.1 localhost\n{address(0)} {host}\n")
    put(top, "/etc/resolv.conf", f"nameserver {GATEWAY}\n")


def _ifcfg(top: Path, distro: Distro) -> None:
    scripts = "/etc/sysconfig/network-scripts"
    put(top, "/etc/sysconfig/network", f"NETWORKING=yes\nGATEWAY={GATEWAY}\n")
    for number, name in enumerate(distro.nics):
        # the first says its MAC, as installers of old did; the second does not
        mac = f"HWADDR={MACS[number].upper()}\n" if number == 0 and distro.init == "upstart" else ""
        gateway = f"GATEWAY={GATEWAY}\nDNS1={GATEWAY}\n" if number == 0 else ""
        body = f"IPADDR={address(number)}\nPREFIX=24\n{gateway}"
        second = f"IPADDR1={address(number)}0\nPREFIX1=24\n" if number == 1 else ""
        text = f"DEVICE={name}\n{mac}TYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=none\n{body}{second}"
        put(top, f"{scripts}/ifcfg-{name}", text)
    if len(distro.nics) > 1:
        put(top, f"{scripts}/route-{distro.nics[1]}", "10.99.0.0/16 via 10.20.1.1\n")
    put(top, f"{scripts}/ifcfg-lo", "DEVICE=lo\nIPADDR=127.0.0.1\nNETMASK=255.0.0.0\nONBOOT=yes\n")


def _keyfile(top: Path, distro: Distro) -> None:
    for number, name in enumerate(distro.nics):
        mac = f"\n[ethernet]\nmac-address={MACS[number].upper()}\n" if number == 0 else ""
        gateway = f",{GATEWAY}\ndns={GATEWAY};" if number == 0 else f"\naddress2={address(number)}0/24"
        text = (
            f"[connection]\nid={name}\nuuid=5a2c5b4e-0c5a-4b6e-9d5f-0a7b6c1d2e3{number}\ntype=ethernet\n"
            f"interface-name={name}\n{mac}\n[ipv4]\naddress1={address(number)}/24{gateway}\nmethod=manual\n\n"
            "[ipv6]\nmethod=disabled\n"
        )
        put(top, f"/etc/NetworkManager/system-connections/{name}.nmconnection", text, 0o600)


def _wicked(top: Path, distro: Distro) -> None:
    for number, name in enumerate(distro.nics):
        second = f"IPADDR_1='{address(number)}0/24'\nLABEL_1='two'\n" if number == 1 else ""
        text = f"BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='{address(number)}/24'\n{second}"
        put(top, f"/etc/sysconfig/network/ifcfg-{name}", text)
    routes = f"default {GATEWAY} - -\n" + ("10.99.0.0/16 10.20.1.1 - eth1\n" if len(distro.nics) > 1 else "")
    put(top, "/etc/sysconfig/network/routes", routes)
    put(top, "/etc/sysconfig/network/config", f'NETCONFIG_DNS_STATIC_SERVERS="{GATEWAY}"\n')


def _netplan(top: Path, distro: Distro) -> None:
    lines = ["# This is the network config written by 'subiquity'", "network:", "  version: 2", "  ethernets:"]
    for number, name in enumerate(distro.nics):
        lines += [f"    {name}:", "      addresses:", f"      - {address(number)}/24"]
        lines += [f"      - {address(number)}0/24"] if number == 1 else []
        if number == 0:
            lines += [f"      gateway4: {GATEWAY}", "      nameservers:", f"        addresses: [{GATEWAY}]"]
    put(top, "/etc/netplan/00-installer-config.yaml", "".join(f"{line}\n" for line in lines), 0o600)


def _ifupdown(top: Path, distro: Distro) -> None:
    text = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n"
    for number, name in enumerate(distro.nics):
        text += f"\nauto {name}\niface {name} inet static\n\taddress {address(number)}\n\tnetmask 255.255.255.0\n"
        if number == 0:
            text += f"\tgateway {GATEWAY}\n\tdns-nameservers {GATEWAY}\n"
        else:
            text += f"\tup ip route add 10.99.0.0/16 via 10.20.1.1\n\nauto {name}:0\niface {name}:0 inet static\n"
            text += f"\taddress {address(number)}0/24\n"
    put(top, "/etc/network/interfaces", text)


def _networkd(top: Path, distro: Distro) -> None:
    for number, name in enumerate(distro.nics):
        text = f"[Match]\nName={name}\n\n[Network]\nDHCP=yes\n"
        put(top, f"/etc/systemd/network/{70 + number}-{name}.network", text)


WRITERS = {
    "ifcfg": _ifcfg,
    "keyfile": _keyfile,
    "wicked": _wicked,
    "netplan": _netplan,
    "ifupdown": _ifupdown,
    "networkd": _networkd,
}
