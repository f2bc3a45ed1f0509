"""Turn the static configuration of chosen interfaces into DHCP, whatever configures them; the others stay as is.

What is replaced is kept below ``/var/lib/coriolis/before``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.linux import network_ifcfg
from coriolis.convert.linux.kept_aside import keep_copy, move_aside
from coriolis.convert.linux.network import Interface
from coriolis.convert.linux.network_ifcfg import Address
from coriolis.convert.linux.network_pins import interfaces
from coriolis.convert.linux.network_systems import RED_HAT_SCRIPTS, SUSE_NETWORK, ConfigFile, config_files
from coriolis.convert.plugin import Finding, Nic, Say
from coriolis.convert.text import encode, shown
from coriolis.errors import Unsupported

_ROUTES = f"{SUSE_NETWORK}/routes"


@dataclass(slots=True)
class Changes:
    """``texts``: path -> what will be written. ``gone``: paths moved aside."""

    texts: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def planned(guest: Guest, nics: Sequence[Nic]) -> Changes:
    """What turning the asked interfaces into DHCP takes. Reads only."""
    changes = Changes()
    if all(nic.addressing == "keep" for nic in nics):
        return changes
    named = interfaces(guest, nics)
    configs = config_files(guest)
    for nic in nics:
        if nic.addressing != "dhcp":
            continue
        if nic.mac in named:
            _plan_interface(guest, configs, Interface(nic.mac, named[nic.mac]), changes)
        else:
            changes.findings.append(
                Finding(
                    "info",
                    "NIC_NOT_CONFIGURED",
                    f"the guest configures no interface that belongs to {nic.mac}: there is no address to replace",
                )
            )
    return changes


def apply(guest: Guest, nics: Sequence[Nic], say: Say) -> None:
    """Write what ``planned`` says. Raises Unsupported where it holds an error."""
    changes = planned(guest, nics)
    for finding in changes.findings:
        if finding.severity == "error":
            raise Unsupported(finding.message)
    for path, text in changes.texts.items():
        keep_copy(guest, path)
        guest.write(path, encode(text))
        say(f"{shown(path)}: addresses by DHCP")
    for path in changes.gone:
        move_aside(guest, path)
        say(f"{shown(path)}: moved aside, it belongs to the static addresses")


def still_static(guest: Guest, nics: Sequence[Nic]) -> list[str]:
    """Paths that would still be changed for the interfaces that should be dynamic; none after ``apply``."""
    changes = planned(guest, nics)
    return [*changes.texts, *changes.gone]


def _plan_interface(guest: Guest, configs: Iterable[ConfigFile], interface: Interface, changes: Changes) -> None:
    own: list[Address] = []
    for config in configs:
        text = changes.texts.get(config.path, config.text)
        try:
            changed = config.reread(text).to_dhcp(interface)
        except Unsupported as error:
            if (interface.name and interface.name in config.text) or interface.mac in config.text.lower():
                changes.findings.append(
                    Finding(
                        "error",
                        "ADDRESSES_UNREADABLE",
                        f"{shown(config.path)}: {error.message}",
                        "let this interface keep its addresses, or write the file in block style",
                    )
                )
            continue
        if changed != text:
            changes.texts[config.path] = changed
            if "/ifcfg-" in config.path:
                own += network_ifcfg.networks_of(text)
    for directory in (RED_HAT_SCRIPTS, SUSE_NETWORK):
        beside = network_ifcfg.companions(interface, guest.listdir(directory))
        for path in (f"{directory}/{name}" for name in beside):
            if guest.is_file(path):
                own += network_ifcfg.networks_of(read_text(guest, path)) if "/ifcfg-" in path else []
                changes.gone.append(path)
    _plan_common_routes(guest, interface, own, changes)


def _plan_common_routes(guest: Guest, interface: Interface, own: Sequence[Address], changes: Changes) -> None:
    """Routes of SUSE and the gateway of Red Hat that stand in a file for all interfaces."""
    old = changes.texts.get(_ROUTES, read_text(guest, _ROUTES))
    new = network_ifcfg.routes_without(old, interface, own)
    if new != old:
        changes.texts[_ROUTES] = new
    if guest.is_file(SUSE_NETWORK):  # a file there is Red Hat's
        old = changes.texts.get(SUSE_NETWORK, read_text(guest, SUSE_NETWORK))
        new = network_ifcfg.without_gateway(old, interface, own)
        if new != old:
            changes.texts[SUSE_NETWORK] = new
