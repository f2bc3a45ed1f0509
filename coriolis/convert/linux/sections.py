"""Files of ``[sections]`` with ``key=value`` lines: NetworkManager's and systemd's. Pure; nothing else is lost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_HEADER = re.compile(r"\s*\[([^\]\n]*)\]\s*$")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=(.*)$")


@dataclass(slots=True)
class Section:
    """``header``: the line itself, empty for what precedes the first one. ``lines`` keep their line ends."""

    header: str
    name: str
    lines: list[str] = field(default_factory=list)

    def values(self, key: str) -> list[str]:
        return [value for name, value in map(assignment, self.lines) if name == key]

    def value(self, key: str) -> str:
        """The last value, empty when there is none."""
        return next(reversed(self.values(key)), "")

    def drop(self, pattern: str) -> None:
        """Remove the assignments whose key ``pattern`` matches whole."""
        self.lines = [line for line in self.lines if not re.fullmatch(pattern, assignment(line)[0] or "#")]

    def put(self, key: str, value: str) -> None:
        """Set ``key``, where it first was, else at the section's end before trailing blank lines."""
        at = next((i for i, line in enumerate(self.lines) if assignment(line)[0] == key), None)
        if at is None:
            at = len(self.lines)
            while at and not self.lines[at - 1].strip():
                at -= 1
        self.drop(re.escape(key))
        self.lines.insert(at, f"{key}={value}\n")


def assignment(line: str) -> tuple[str, str]:
    """(key, value) of a line, two empty strings when it is none."""
    match = _ASSIGNMENT.match(line)
    return (match[1], match[2].strip()) if match else ("", "")


def split(text: str) -> list[Section]:
    """The sections in order; the first has no header."""
    found = [Section("", "")]
    for line in text.splitlines(keepends=True):
        header = _HEADER.match(line)
        if header:
            found.append(Section(line, header[1]))
        else:
            found[-1].lines.append(line)
    return found


def join(sections: Iterable[Section]) -> str:
    lines = [line for one in sections for line in (one.header, *one.lines) if line]
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
