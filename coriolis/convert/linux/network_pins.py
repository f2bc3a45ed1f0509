"""Bind the names of network interfaces to their MAC addresses in the guest's files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import network
from coriolis.convert.linux.kept_aside import edit_file
from coriolis.convert.linux.network_systems import binding_files, bindings, config_files, configured_names
from coriolis.convert.plugin import Nic, Say
from coriolis.convert.text import encode, shown
from coriolis.errors import Corrupt

_LINK_RULES = "80-net-setup-link.rules"
_RULE_DIRECTORIES = ("/usr/lib/udev/rules.d", "/lib/udev/rules.d")


def understands_links(guest: Guest) -> bool:
    """Whether the guest's udev applies ``.link`` files: systemd 209 and later, unless the operator masked the rule."""
    masked = guest.read_link(f"/etc/udev/rules.d/{_LINK_RULES}") == "/dev/null"
    return not masked and any(guest.is_file(f"{directory}/{_LINK_RULES}") for directory in _RULE_DIRECTORIES)


def planned_pins(guest: Guest, nics: Sequence[Nic]) -> network.Pins:
    """The pairs that are to be written. Reads only."""
    configs = config_files(guest)
    return network.choose(nics, configured_names(configs), bindings(guest, configs).renamed(nics))


def pin_names(guest: Guest, nics: Sequence[Nic], say: Say) -> list[tuple[str, str]]:
    """Write the pairs; they. Files that bind a name to a MAC that the machine does not have get the new one."""
    _replace_changed(guest, nics, say)
    pins = planned_pins(guest, nics)
    _replace_stale(guest, nics, pins.pairs, say)
    if pins.pairs and understands_links(guest):
        for mac, name in pins.pairs:
            path, text = network.link_file(mac, name)
            guest.write(path, encode(text))
    elif pins.pairs:
        guest.write(network.RULES, encode(network.with_rules(read_text(guest, network.RULES), pins.pairs)))
    for mac, name in pins.pairs:
        say(f"network interface {mac} keeps the name {name}")
    return list(pins.pairs)


def _replace_changed(guest: Guest, nics: Sequence[Nic], say: Say) -> None:
    """Give the guest's files the MACs that the destination gives its interfaces."""
    changed = network.changed_macs(nics)
    if changed:
        for path in [*binding_files(guest), *(config.path for config in config_files(guest))]:
            edit_file(guest, path, partial(network.with_macs, changed=changed), say)


def _replace_stale(guest: Guest, nics: Sequence[Nic], pairs: Sequence[tuple[str, str]], say: Say) -> None:
    have = {nic.mac for nic in nics}
    if not pairs:
        return
    for config in config_files(guest):
        for mac, name in pairs:
            stale = {old: mac for old, bound in config.bound if bound == name and old not in have}
            if stale:
                edit_file(guest, config.path, partial(network.with_macs, changed=stale), say)
    stale_rule = any(old not in have for old, _ in network.rule_bindings(read_text(guest, network.RULES)))
    if stale_rule:
        edit_file(guest, network.RULES, lambda text: network.with_rules(text, pairs), say)


def interfaces(guest: Guest, nics: Sequence[Nic]) -> dict[str, str]:
    """MAC -> name by which the guest configures it, of the machine's interfaces: as it says, or to be pinned.

    The name is empty where the guest configures an interface by its MAC alone.
    """
    live = bindings(guest, config_files(guest)).renamed(nics).of(nics)
    return {**dict(planned_pins(guest, nics).pairs), **live.names()}


def verify_pins(guest: Guest, pins: Sequence[tuple[str, str]]) -> None:
    """Raises Corrupt when a pair that was written is not what the guest now says."""
    there = bindings(guest, []).given
    lost = [f"{mac} {name}" for mac, name in pins if (mac, name) not in there]
    if lost:
        raise Corrupt(f"the name of a network interface is not bound to its MAC address: {shown(lost[0])}")
