"""Keeping the names of network interfaces: which MAC address gets which name. Pure.

The name of an interface follows the (virtual) hardware, so a static configuration of ``ens192`` is dead on
another hypervisor. A systemd ``.link`` file, or a udev rule where there is no such systemd, binds the name to
the MAC address, which migrates. Rules, in order:

1. A MAC of the machine to which the guest itself gives a name (``.link``, ``70-persistent-net.rules``) is left alone,
   and so is its name. What only looks for a MAC (``HWADDR=``, NetworkManager ``mac-address=``, networkd
   ``MACAddress=``) gives no name, but says which one the interface had; without a name it needs none. What names a
   MAC that the machine does not have says nothing.
2. An interface whose name the machine description gives, and which the guest configures, gets it.
3. The remaining MACs, in the order of the machine description, get the remaining configured names, in the
   order of their appearance in the guest's configuration. When their numbers differ the rest is reported,
   never guessed.

Where the destination gives an interface another MAC (``Nic.was`` is the old one), the guest's files get the new one
first, and what they say of the old one counts for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from coriolis.convert.plugin import Nic

MAX_NAMES = 64
RULES = "/etc/udev/rules.d/70-persistent-net.rules"
_MAC = re.compile(r"\b([0-9a-f]{2}(?:[:-][0-9a-f]{2}){5})\b", re.I)
_NAME = re.compile(r"[a-z][a-z0-9_-]{1,14}", re.I)
_VIRTUAL = re.compile(r"^(lo|br|bond|team|dummy|tun|tap|veth|virbr|docker|vlan|wg|ppp|sit|wl|ww|ib|vmnet|lxc)", re.I)
_LINK_NAME = re.compile(r"(?m)^[ \t]*Name[ \t]*=[ \t]*(\S+)")
_RULE_MAC = re.compile(r"ATTRS?\{address\}==\"([0-9a-f:]{17})\"", re.I)
_RULE_NAME = re.compile(r"\bNAME=\"([^\"]+)\"")


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the guest: its MAC address, and the name by which the guest configures it."""

    mac: str
    name: str


@dataclass(frozen=True, slots=True)
class Bindings:
    """(MAC, name) in the guest's files. ``given``: the name is given to the MAC. ``matched``: configuration that
    looks for the MAC, and for the name too unless that is empty.
    """

    given: frozenset[tuple[str, str]] = frozenset()
    matched: frozenset[tuple[str, str]] = frozenset()

    def of(self, nics: Sequence[Nic]) -> Bindings:
        """Those of MACs that the machine has."""
        macs = {nic.mac for nic in nics}
        live = [frozenset(pair for pair in pairs if pair[0] in macs) for pairs in (self.given, self.matched)]
        return Bindings(*live)

    def renamed(self, nics: Sequence[Nic]) -> Bindings:
        """As the guest's files say it once ``with_macs`` gave them the new addresses."""
        new = changed_macs(nics)
        pairs = [frozenset((new.get(mac, mac), name) for mac, name in one) for one in (self.given, self.matched)]
        return Bindings(*pairs)

    def names(self) -> dict[str, str]:
        """MAC -> name; empty where nothing needs one."""
        return dict([*sorted(self.matched), *sorted(self.given)])


@dataclass(frozen=True, slots=True)
class Pins:
    """``pairs``: (MAC, name) to write. ``messages``: what could not be matched."""

    pairs: tuple[tuple[str, str], ...]
    messages: tuple[str, ...]


def macs_in(text: str) -> frozenset[str]:
    """All MAC addresses in a configuration file, lower case with colons."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return frozenset(m[1].lower().replace("-", ":") for line in lines for m in _MAC.finditer(line))


def link_bindings(text: str) -> list[tuple[str, str]]:
    """(MAC, name) of a ``.link`` file; one that names nothing sets speed or the like."""
    name = _LINK_NAME.search(text)
    return [(mac, name[1]) for mac in sorted(macs_in(text))] if name else []


def rule_bindings(text: str) -> list[tuple[str, str]]:
    """(MAC, name) of udev rules."""
    found = (_rule(line) for line in text.splitlines())
    return [rule for rule in found if rule]


def _rule(line: str) -> tuple[str, str] | None:
    mac, name = _RULE_MAC.search(line), _RULE_NAME.search(line)
    return (mac[1].lower(), name[1]) if mac and name and not line.lstrip().startswith("#") else None


def physical(names: Iterable[str]) -> list[str]:
    """``names`` that can be an Ethernet interface of their own, each once, at most 64."""
    good = [name for name in names if _NAME.fullmatch(name) and not _VIRTUAL.match(name)]
    return list(dict.fromkeys(good))[:MAX_NAMES]


def choose(nics: Sequence[Nic], configured: Sequence[str], bound: Bindings) -> Pins:
    """The pairs to write, by the rules above."""
    live = bound.of(nics)
    taken = {name for _, name in live.given}
    done = {mac for mac, _ in live.given}
    pairs: list[tuple[str, str]] = []
    for mac, name in sorted(live.matched, reverse=True):  # a file with a name before one without
        if mac not in done and (not name or name not in taken):
            pairs += [(mac, name)] if name else []
            done.add(mac)
            taken.add(name)
    taken.discard("")
    free_nics = [nic for nic in nics if nic.mac not in done]
    free_names = [name for name in configured if name not in taken]
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


def with_rules(text: str, pairs: Iterable[tuple[str, str]]) -> str:
    """``70-persistent-net.rules`` that give each name to its MAC, in place of what bound either before."""
    wanted = dict(pairs)
    kept = []
    for line in text.splitlines():
        rule = _rule(line)
        if rule is None or (rule[0] not in wanted and rule[1] not in wanted.values()):
            kept.append(line)
    added = [
        f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{mac}", ATTR{{type}}=="1", NAME="{name}"'
        for mac, name in wanted.items()
    ]
    return "".join(f"{line}\n" for line in [*kept, *added])


def changed_macs(nics: Iterable[Nic]) -> dict[str, str]:
    """Old MAC -> new one, of the interfaces to which the destination gives another."""
    return {nic.was: nic.mac for nic in nics if nic.was}


def with_macs(text: str, changed: Mapping[str, str]) -> str:
    """``text`` with each MAC address in ``changed`` replaced by its new one; comments stay."""

    def replace(match: re.Match[str]) -> str:
        return changed.get(match[1].lower().replace("-", ":"), match[0])

    lines = text.splitlines(keepends=True)
    return "".join(line if line.lstrip().startswith("#") else _MAC.sub(replace, line) for line in lines)
