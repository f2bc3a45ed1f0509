"""netplan's YAML, by indentation: no YAML parser is at hand in the worker. Pure.

What cannot be told apart by indentation (flow style, anchors) is refused, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coriolis.convert.linux.network import Interface, macs_in, physical
from coriolis.convert.text import shown
from coriolis.errors import Unsupported

STATIC_KEYS = ("addresses", "gateway4", "gateway6", "routes", "routing-policy", "nameservers")
_FLOW = re.compile(r"(?m)^[ \t]*(?:\{|network:[ \t]*\{|ethernets:[ \t]*\{)")
_SET_NAME = re.compile(r"(?m)^[ \t]*set-name:[ \t]*[\"']?([\w.-]+)")
_SHARED = re.compile(r"[:-][ \t][ \t]*[&*]\w|<<:")


@dataclass(frozen=True, slots=True)
class Block:
    """One interface below ``ethernets``: lines ``start`` (its key) to ``end``, not included."""

    key: str
    start: int
    end: int


def names(text: str) -> list[str]:
    """Interfaces below ``ethernets``: ``set-name`` where given, else the key; none for one matched by MAC alone."""
    return physical(name for _, name in _found(text))


def bound(text: str) -> list[tuple[str, str]]:
    """(MAC, name) of the interfaces with a ``macaddress``."""
    return [(mac, name) for macs, name in _found(text) for mac in sorted(macs)]


def _found(text: str) -> list[tuple[frozenset[str], str]]:
    """(MACs, name) of each interface; where a MAC is matched, the key is no name of an interface."""
    lines = text.splitlines()
    found = []
    for block in blocks(text):
        body = "\n".join(lines[block.start : block.end])
        macs, given = macs_in(body), _SET_NAME.search(body)
        found.append((macs, given[1] if given else "" if macs else block.key))
    return found


def to_dhcp(text: str, interface: Interface) -> str:
    """``text`` with the interface by DHCP. Raises Unsupported when it cannot be told what belongs to it."""
    if _FLOW.search(text):
        raise Unsupported(f"netplan writes {shown(interface.name)} in flow style")
    lines = text.splitlines(keepends=True)
    for block in reversed(blocks(text)):
        own = lines[block.start : block.end]
        body = "".join(own)
        if _name_of(block, lines) == interface.name or interface.mac in macs_in(body):
            if _SHARED.search(body) or "{" in own[0]:
                raise Unsupported(f"netplan writes {shown(interface.name)} with anchors or in flow style")
            lines[block.start : block.end] = _dynamic(own)
    return "".join(lines)


def blocks(text: str) -> list[Block]:
    """The interfaces below each ``ethernets``, in order."""
    found: list[Block] = []
    inside = child = -1
    key, start = "", -1
    lines = text.splitlines()
    for number, line in enumerate(lines):
        bare = _bare(line)
        if not bare:
            continue
        indent = len(bare) - len(bare.lstrip())
        if start >= 0 and indent <= child:
            found.append(Block(key, start, number))
            start = -1
        if inside >= 0 and indent <= inside:
            inside = -1
        if re.fullmatch(r"\s*ethernets:", bare):
            inside, child = indent, -1
        elif inside >= 0 and (child < 0 or indent == child):
            child, start = indent, number
            key = bare.strip().partition(":")[0].strip("\"'")
    return [*found, Block(key, start, len(lines))] if start >= 0 else found


def _bare(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).rstrip()


def _name_of(block: Block, lines: list[str]) -> str:
    given = _SET_NAME.search("\n".join(line.rstrip("\n") for line in lines[block.start : block.end]))
    return given[1] if given else block.key


def _dynamic(own: list[str]) -> list[str]:
    """The lines of one interface without what is static."""
    key_indent = len(own[0]) - len(own[0].lstrip())
    filled = [line for line in own[1:] if _bare(line)]
    indent = len(filled[0]) - len(filled[0].lstrip()) if filled else key_indent + 2
    kept: list[str] = []
    dropping = static = dynamic = False
    for line in own[1:]:
        bare = _bare(line)
        at = len(bare) - len(bare.lstrip())
        if bare and at == indent and not bare.lstrip().startswith("- "):
            key, _, value = bare.strip().partition(":")
            dropping = key in (*STATIC_KEYS, "dhcp4")
            static = static or key in STATIC_KEYS
            dynamic = dynamic or (key == "dhcp4" and value.strip().lower() in ("true", "yes", "on"))
        if not dropping or not bare:
            kept.append(line)
    if dynamic and not static:
        return own
    first = own[0] if own[0].endswith("\n") else own[0] + "\n"
    return [first, f"{' ' * indent}dhcp4: true\n", *kept]
