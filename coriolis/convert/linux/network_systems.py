"""The ways in which Linux guests configure their network, as one table; and reading what a guest has of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import (
    network_ifcfg,
    network_interfaces,
    network_keyfile,
    network_netplan,
    network_networkd,
)
from coriolis.convert.linux.network import RULES, Bindings, Interface, link_bindings, physical, rule_bindings

MAX_CONFIG_FILES = 200
_LEFTOVERS = ("~", ".bak", ".orig", ".old", ".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-dist", ".dpkg-old", ".swp")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file of one system. ``to_dhcp`` raises Unsupported where it cannot tell what belongs to the interface."""

    path: str
    text: str
    names: list[str]
    bound: list[tuple[str, str]]
    to_dhcp: Callable[[Interface], str]
    read: Callable[[str, str], ConfigFile]

    def reread(self, text: str) -> ConfigFile:
        """The same file with another text."""
        return self.read(self.path, text)


@dataclass(frozen=True, slots=True)
class ConfigSystem:
    """``places``: (directory, beginning, end) of the names of its files. ``read``: what one file says."""

    name: str
    places: tuple[tuple[str, str, str], ...]
    read: Callable[[str, str], ConfigFile]


def _ifcfg(path: str, text: str) -> ConfigFile:
    name = path.rpartition("/")[2]
    to_dhcp = partial(network_ifcfg.to_dhcp, name, text)
    return ConfigFile(path, text, network_ifcfg.names(name, text), network_ifcfg.bound(name, text), to_dhcp, _ifcfg)


def _interfaces(path: str, text: str) -> ConfigFile:
    to_dhcp = partial(network_interfaces.to_dhcp, text)
    return ConfigFile(path, text, network_interfaces.names(text), network_interfaces.bound(text), to_dhcp, _interfaces)


def _netplan(path: str, text: str) -> ConfigFile:
    to_dhcp = partial(network_netplan.to_dhcp, text)
    return ConfigFile(path, text, network_netplan.names(text), network_netplan.bound(text), to_dhcp, _netplan)


def _keyfile(path: str, text: str) -> ConfigFile:
    to_dhcp = partial(network_keyfile.to_dhcp, text)
    return ConfigFile(path, text, network_keyfile.names(text), network_keyfile.bound(text), to_dhcp, _keyfile)


def _networkd(path: str, text: str) -> ConfigFile:
    to_dhcp = partial(network_networkd.to_dhcp, text)
    return ConfigFile(path, text, network_networkd.names(text), network_networkd.bound(text), to_dhcp, _networkd)


RED_HAT_SCRIPTS = "/etc/sysconfig/network-scripts"
SUSE_NETWORK = "/etc/sysconfig/network"
SYSTEMS = (
    ConfigSystem(
        "ifupdown", (("/etc/network", "interfaces", "interfaces"), ("/etc/network/interfaces.d", "", "")), _interfaces
    ),
    ConfigSystem("netplan", (("/etc/netplan", "", ".yaml"),), _netplan),
    ConfigSystem("network-scripts", ((RED_HAT_SCRIPTS, "ifcfg-", ""),), _ifcfg),
    ConfigSystem("wicked", ((SUSE_NETWORK, "ifcfg-", ""),), _ifcfg),
    ConfigSystem("NetworkManager", (("/etc/NetworkManager/system-connections", "", ""),), _keyfile),
    ConfigSystem("systemd-networkd", (("/etc/systemd/network", "", ".network"),), _networkd),
)


def config_files(guest: Guest) -> list[ConfigFile]:
    """All files of all systems that the guest has."""
    return [
        system.read(path, read_text(guest, path))
        for system in SYSTEMS
        for place in system.places
        for path in files(guest, *place)
    ]


def configured_names(configs: list[ConfigFile]) -> list[str]:
    """Interface names in order of appearance."""
    return physical(name for one in configs for name in one.names)


def binding_files(guest: Guest) -> list[str]:
    """Paths of the files that give names to MACs: ``.link`` files and udev rules."""
    links = files(guest, "/etc/systemd/network", "", ".link")
    return [*links, *files(guest, RULES.rpartition("/")[0], "", ".rules")]


def bindings(guest: Guest, configs: list[ConfigFile]) -> Bindings:
    """What the guest says of MACs."""
    given: list[tuple[str, str]] = []
    for path in binding_files(guest):
        given += (link_bindings if path.endswith(".link") else rule_bindings)(read_text(guest, path))
    return Bindings(frozenset(given), frozenset(pair for one in configs for pair in one.bound))


def files(guest: Guest, directory: str, beginning: str, end: str) -> Iterator[str]:
    """Paths of regular files whose names fit, at most 200; what editors and package tools leave is not one."""
    names = [name for name in guest.listdir(directory) if name.startswith(beginning) and name.endswith(end)]
    for name in names[:MAX_CONFIG_FILES]:
        if not name.endswith(_LEFTOVERS) and guest.is_file(f"{directory}/{name}"):
            yield f"{directory}/{name}"
