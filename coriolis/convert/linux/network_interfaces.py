"""ifupdown: ``/etc/network/interfaces`` and the files beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from coriolis.convert.linux.network import Interface, physical

_KEYWORD = re.compile(r"\s*(iface|auto|allow-\S+|mapping|source|source-directory|no-auto-down|no-scripts|template)\s")
_STATIC_OPTIONS = frozenset(
    [
        "address",
        "netmask",
        "network",
        "broadcast",
        "gateway",
        "pointopoint",
        "scope",
        "metric",
        "autoconf",
        "accept_ra",
        "dad-attempts",
    ]
)
_COMMANDS = ("up", "pre-up", "post-up", "down", "pre-down", "post-down")
_ADDRESS_TOOLS = ("ip", "route", "ifconfig")


def names(text: str) -> list[str]:
    """Physical interfaces, in order of appearance."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("auto", "allow-hotplug"):
            found += words[1:]
        elif len(words) > 1 and words[0] == "iface":
            found.append(words[1])
    return physical(found)


def bound(text: str) -> list[tuple[str, str]]:
    """Nothing: ifupdown knows interfaces by name."""
    return []


def to_dhcp(text: str, interface: Interface) -> str:
    """``text`` with the static stanzas of the interface turned into one by DHCP; its aliases go."""
    out: list[str] = []
    done = False
    for stanza in _stanzas(text):
        words = stanza[0].split()
        if words[:1] and (words[0] == "auto" or words[0].startswith("allow-")):
            out += [_without_aliases(stanza[0], words, interface.name)]
        elif len(words) > 3 and words[0] == "iface" and words[1] == interface.name and words[3] == "static":
            if words[2] == "inet" and done:
                continue  # a second address
            done = done or words[2] == "inet"
            method = "dhcp" if words[2] == "inet" else "auto"
            out.append(f"iface {words[1]} {words[2]} {method}\n")
            out += _kept_options(stanza[1:])
        elif len(words) > 1 and words[0] == "iface" and words[1].startswith(f"{interface.name}:"):
            continue
        else:
            out += stanza
    return "".join(out)


def _stanzas(text: str) -> Iterator[list[str]]:
    """Lines grouped: a keyword's line with what belongs to it."""
    group: list[str] = []
    for line in text.splitlines(keepends=True):
        if _KEYWORD.match(line) and group:
            yield group
            group = []
        group.append(line)
    if group:
        yield group


def _kept_options(lines: list[str]) -> list[str]:
    """Options that do not set addresses or routes; a continued line shares the fate of its first."""
    kept: list[str] = []
    dropping = continued = False
    for line in lines:
        if not continued:
            dropping = _is_static(line.split())
        continued = line.rstrip().endswith("\\")
        if not dropping:
            kept.append(line)
    return kept


def _is_static(words: list[str]) -> bool:
    """Whether an option sets addresses, routes or resolvers, or runs a program that does."""
    if words and words[0] in _COMMANDS:
        return any(word.rpartition("/")[2] in _ADDRESS_TOOLS for word in words[1:])
    return bool(words) and (words[0] in _STATIC_OPTIONS or words[0].startswith("dns-"))


def _without_aliases(line: str, words: list[str], name: str) -> str:
    left = [word for word in words if not word.startswith(f"{name}:")]
    if left == words:
        return line
    return " ".join(left) + "\n" if len(left) > 1 else ""
