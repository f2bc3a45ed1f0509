"""Keeping the names of network interfaces: which MAC address gets which name. Pure.

The name of an interface follows the (virtual) hardware, so a static configuration of ``ens192`` is dead on
another hypervisor. A systemd ``.link`` file binds the name to the MAC address, which migrates. Rules, in
order:

1. A MAC that the guest itself already binds (``.link``, ``70-persistent-net.rules``, ``HWADDR=``, netplan
   ``macaddress``, NetworkManager ``mac-address=``) is left alone, and so is a name that is bound.
2. An interface whose name the machine description gives, and which the guest configures, gets it.
3. The remaining MACs, in the order of the machine description, get the remaining configured names, in the
   order of their appearance in the guest's configuration. When their numbers differ the rest is reported,
   never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coriolis.convert.plugin import Nic

MAX_NAMES = 64
_MAC = re.compile(r"\b([0-9a-f]{2}(?:[:-][0-9a-f]{2}){5})\b", re.I)
_NAME = re.compile(r"[a-z][a-z0-9_-]{1,14}", re.I)
_VIRTUAL = re.compile(r"^(lo|br|bond|team|dummy|tun|tap|veth|virbr|docker|vlan|wg|ppp|sit|wl|ww|ib|vmnet|lxc)", re.I)
_LINK_NAME = re.compile(r"(?m)^[ \t]*Name[ \t]*=[ \t]*(\S+)")
_UDEV_RULE = re.compile(r"(?i)ATTR\{address\}==\"([0-9a-f:]{17})\".*?NAME=\"([^\"]+)\"")


@dataclass(frozen=True, slots=True)
class Bindings:
    """What the guest binds by MAC itself."""

    macs: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pins:
    """``pairs``: (MAC, name) to write. ``messages``: what could not be matched."""

    pairs: tuple[tuple[str, str], ...]
    messages: tuple[str, ...]


def macs_in(text: str) -> frozenset[str]:
    """All MAC addresses in a configuration file, lower case with colons."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return frozenset(m[1].lower().replace("-", ":") for line in lines for m in _MAC.finditer(line))


def bindings(link_files: Iterable[str], udev_rules: Iterable[str], mac_matches: Iterable[str]) -> Bindings:
    """Bindings of the ``.link`` files, udev rules, and other files that match interfaces by MAC."""
    macs: set[str] = set()
    names: set[str] = set()
    for text in link_files:
        given = _LINK_NAME.findall(text)
        if given:  # a link file that names nothing sets speed or the like
            macs |= macs_in(text)
            names |= set(given)
    for text in udev_rules:
        for line in text.splitlines():
            rule = _UDEV_RULE.search(line) if not line.lstrip().startswith("#") else None
            if rule:
                macs.add(rule[1].lower())
                names.add(rule[2])
    for text in mac_matches:
        macs |= macs_in(text)
    return Bindings(frozenset(macs), frozenset(names))


def names_in_interfaces(text: str) -> list[str]:
    """Physical interfaces of an ``/etc/network/interfaces`` file, in order of appearance."""
    names: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("auto", "allow-hotplug"):
            names += words[1:]
        elif len(words) > 1 and words[0] == "iface":
            names.append(words[1])
    return physical(names)


def names_in_ifcfg(file_names: Iterable[str]) -> list[str]:
    """Physical interfaces of ``ifcfg-*`` files, by file name."""
    return physical(name.removeprefix("ifcfg-") for name in file_names if name.startswith("ifcfg-"))


def names_in_netplan(text: str) -> list[str]:
    """Keys of ``ethernets`` in a netplan file, by indentation (no YAML parser is at hand here)."""
    names: list[str] = []
    inside = child = -1
    for line in text.splitlines():
        bare = line.split("#", 1)[0].rstrip()
        if not bare:
            continue
        indent = len(bare) - len(bare.lstrip())
        if inside >= 0 and indent <= inside:
            inside = -1
        if re.fullmatch(r"\s*ethernets:", bare):
            inside, child = indent, -1
        elif inside >= 0 and (child < 0 or indent == child):
            child = indent
            names.append(bare.strip().partition(":")[0].strip("\"'"))
    return physical(names)


def names_in_keyfile(text: str) -> list[str]:
    """``interface-name=`` of a NetworkManager connection and ``Name=`` of a networkd file."""
    found = re.findall(r"(?m)^[ \t]*(?:interface-name|Name)[ \t]*=[ \t]*(\S+)", text)
    return physical(found)


def physical(names: Iterable[str]) -> list[str]:
    """``names`` that can be an Ethernet interface of their own, each once, at most 64."""
    good = [name for name in names if _NAME.fullmatch(name) and not _VIRTUAL.match(name)]
    return list(dict.fromkeys(good))[:MAX_NAMES]


def choose(nics: Sequence[Nic], configured: Sequence[str], bound: Bindings) -> Pins:
    """The pairs to write, by the rules above."""
    free_nics = [nic for nic in nics if nic.mac not in bound.macs]
    free_names = [name for name in configured if name not in bound.names]
    pairs: list[tuple[str, str]] = []
    for nic in list(free_nics):
        if nic.name in free_names:
            pairs.append((nic.mac, nic.name))
            free_nics.remove(nic)
            free_names.remove(nic.name)
    pairs += [(nic.mac, name) for nic, name in zip(free_nics, free_names, strict=False)]
    count = min(len(free_nics), len(free_names))
    messages = [f"the guest configures {name}, but no network interface is left for it" for name in free_names[count:]]
    messages += [f"no name is configured for the interface {nic.mac}" for nic in free_nics[count:]]
    return Pins(tuple(pairs), tuple(messages))


def link_file(mac: str, name: str) -> tuple[str, str]:
    """(path, text) of the systemd ``.link`` file that gives ``name`` to ``mac``."""
    why = "# Written by Coriolis: keeps the name this interface had."
    text = f"{why}\n[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\n"
    return f"/etc/systemd/network/10-coriolis-{name}.link", text
