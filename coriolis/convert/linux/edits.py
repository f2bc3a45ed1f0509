"""Apply the pure edits of ``network`` to the guest's files: names of network interfaces."""

from __future__ import annotations

from collections.abc import Sequence

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import network
from coriolis.convert.plugin import Nic, Say
from coriolis.convert.text import encode

MAX_CONFIG_FILES = 200
_UDEVD = ("/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd", "/bin/udevadm", "/usr/bin/udevadm")


def pin_network_names(guest: Guest, nics: Sequence[Nic], say: Say) -> tuple[tuple[str, str], ...]:
    """Write one ``.link`` file per pair; the pairs."""
    pins = network.choose(nics, configured_names(guest), guest_bindings(guest))
    for message in pins.messages:
        say(message)
    if pins.pairs and not any(guest.is_file(path) for path in _UDEVD):
        say("the guest has no systemd-udevd: names of network interfaces are not pinned")
        return ()
    for mac, name in pins.pairs:
        path, text = network.link_file(mac, name)
        guest.write(path, encode(text))
        say(f"network interface {mac} keeps the name {name}")
    return pins.pairs


def configured_names(guest: Guest) -> list[str]:
    """Interface names of all configuration systems the guest has, in order of appearance."""
    names = network.names_in_interfaces(read_text(guest, "/etc/network/interfaces"))
    for path in _files(guest, "/etc/network/interfaces.d", ""):
        names += network.names_in_interfaces(read_text(guest, path))
    for path in _files(guest, "/etc/netplan", ".yaml"):
        names += network.names_in_netplan(read_text(guest, path))
    names += network.names_in_ifcfg(guest.listdir("/etc/sysconfig/network-scripts"))
    names += network.names_in_ifcfg(guest.listdir("/etc/sysconfig/network"))
    for directory, suffix in (
        ("/etc/NetworkManager/system-connections", ""),
        ("/etc/systemd/network", ".network"),
    ):
        for path in _files(guest, directory, suffix):
            names += network.names_in_keyfile(read_text(guest, path))
    return network.physical(names)


def guest_bindings(guest: Guest) -> network.Bindings:
    """What the guest binds by MAC itself."""
    links = [read_text(guest, path) for path in _files(guest, "/etc/systemd/network", ".link")]
    rules = [read_text(guest, path) for path in _files(guest, "/etc/udev/rules.d", ".rules")]
    matches = [
        read_text(guest, path)
        for directory, suffix in (
            ("/etc/netplan", ".yaml"),
            ("/etc/NetworkManager/system-connections", ""),
            ("/etc/systemd/network", ".network"),
        )
        for path in _files(guest, directory, suffix)
    ]
    for directory in ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network"):
        matches += [read_text(guest, path) for path in _files(guest, directory, "") if "/ifcfg-" in path]
    return network.bindings(links, rules, matches)


def _files(guest: Guest, directory: str, suffix: str) -> list[str]:
    names = [name for name in guest.listdir(directory) if name.endswith(suffix)]
    paths = [f"{directory}/{name}" for name in names[:MAX_CONFIG_FILES]]
    return [path for path in paths if guest.is_file(path)]
