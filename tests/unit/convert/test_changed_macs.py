"""A destination that gives an interface another MAC: whatever in the guest goes by the old one gets the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from coriolis.convert.linux.network_pins import interfaces, pin_names, planned_pins, verify_pins
from coriolis.convert.plugin import Nic
from tests.unit.convert.directory_guest import DirectoryGuest

OLD, NEW, OTHER = "00:50:56:00:00:0a", "fa:16:3e:00:00:0b", "00:50:56:00:00:0c"
NICS = (Nic(OTHER), Nic(NEW, was=OLD))
IFCFG = "/etc/sysconfig/network-scripts/ifcfg-"
LINKS = "/lib/udev/rules.d/80-net-setup-link.rules"


def guest_with(folder: Path, files: dict[str, str]) -> DirectoryGuest:
    guest = DirectoryGuest(folder)
    for path, text in {LINKS: "", **files}.items():
        guest.write(path, text.encode())
    return guest


CASES = {
    "ifcfg": (
        {
            f"{IFCFG}one": f"DEVICE=ens160\nHWADDR={OLD.upper()}\nBOOTPROTO=none\nIPADDR=10.0.0.5\nPREFIX=24\n",
            f"{IFCFG}two": f"DEVICE=ens192\nHWADDR={OTHER}\nBOOTPROTO=dhcp\n",
        },
        {NEW: "ens160", OTHER: "ens192"},
    ),
    "keyfile without a name": (
        {
            "/etc/NetworkManager/system-connections/one.nmconnection": (
                f"[connection]\nid=one\ntype=ethernet\n\n[ethernet]\nmac-address={OLD}\n\n[ipv4]\nmethod=auto\n"
            )
        },
        {NEW: ""},
    ),
    "udev rule": (
        {
            "/etc/udev/rules.d/70-persistent-net.rules": f'SUBSYSTEM=="net", ATTR{{address}}=="{OLD}", NAME="eth0"\n',
            "/etc/network/interfaces": "auto eth0 eth1\niface eth0 inet static\niface eth1 inet dhcp\n",
        },
        {NEW: "eth0", OTHER: "eth1"},
    ),
    "link file": (
        {
            "/etc/systemd/network/10-lan.link": f"[Match]\nMACAddress={OLD}\n\n[Link]\nName=lan0\n",
            "/etc/network/interfaces": "auto lan0 ens5\niface lan0 inet static\niface ens5 inet dhcp\n",
        },
        {NEW: "lan0", OTHER: "ens5"},
    ),
    "netplan": (
        {
            "/etc/netplan/50-a.yaml": (
                "network:\n  version: 2\n  ethernets:\n    lan:\n      match:\n"
                f"        macaddress: {OLD}\n      set-name: ens160\n      dhcp4: true\n"
            )
        },
        {NEW: "ens160"},
    ),
}


@pytest.mark.parametrize("key", CASES)
def test_the_name_of_the_old_mac_goes_to_the_new_one(tmp_path: Path, key: str) -> None:
    files, names = CASES[key]
    guest = guest_with(tmp_path, files)
    before = interfaces(guest, NICS)
    said: list[str] = []
    pins = pin_names(guest, NICS, said.append)
    assert interfaces(guest, NICS) == before == names, said
    verify_pins(guest, pins)
    texts = [guest.path(path).read_text().lower() for path in files]
    assert not [text for text in texts if OLD in text]
    assert [text for text in texts if NEW in text]
    assert planned_pins(guest, NICS).pairs == (), "a second conversion has nothing to pin"


def test_an_interface_that_keeps_its_mac_costs_no_edit(tmp_path: Path) -> None:
    path = f"{IFCFG}one"
    guest = guest_with(tmp_path, {path: f"DEVICE=ens160\nHWADDR={OTHER.upper()}\n"})
    pin_names(guest, [Nic(OTHER)], lambda _: None)
    assert guest.path(path).read_text() == f"DEVICE=ens160\nHWADDR={OTHER.upper()}\n"
