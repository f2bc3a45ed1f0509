"""Registry hives of the guest: read whole into a private copy, changed there, and only changed pages written back.

Format facts: a hive begins with a 4 KiB base block ``regf`` with two sequence numbers (offset 4 and 8) that differ
while changes wait in its transaction logs, the length of its bins (offset 40) and an XOR of its first 508 bytes (508).
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from coriolis.convert.guest import Guest, read
from coriolis.convert.linux.host_tools import scratch_directory
from coriolis.convert.text import shown
from coriolis.errors import Corrupt, Unsupported

MAX_HIVE_BYTES = 512 << 20
MAX_CHILDREN = 20_000
MAX_VALUE_BYTES = 1 << 20
PAGE_BYTES = 4096
SZ, EXPAND_SZ, BINARY, DWORD, MULTI_SZ = 1, 2, 3, 4, 7

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Value:
    """A registry value: its REG_ type and its bytes as they lie in the hive."""

    kind: int
    data: bytes

    def text(self) -> str:
        """A string value without its end; empty when it is of another type."""
        if self.kind not in (SZ, EXPAND_SZ):
            return ""
        return self.data.decode("utf-16-le", "replace").partition("\0")[0]

    def texts(self) -> list[str]:
        """The strings of a MULTI_SZ, or the one of a string value; empty ones are left out."""
        if self.kind == MULTI_SZ:
            return [one for one in self.data.decode("utf-16-le", "replace").split("\0") if one]
        return [self.text()] if self.text() else []

    def number(self) -> int | None:
        return int(struct.unpack("<I", self.data)[0]) if self.kind == DWORD and len(self.data) == 4 else None


def sz(text: str) -> Value:
    return Value(SZ, f"{text}\0".encode("utf-16-le"))


def expand_sz(text: str) -> Value:
    return Value(EXPAND_SZ, f"{text}\0".encode("utf-16-le"))


def multi_sz(texts: Sequence[str]) -> Value:
    return Value(MULTI_SZ, ("".join(f"{text}\0" for text in texts) + "\0").encode("utf-16-le"))


def dword(number: int) -> Value:
    return Value(DWORD, struct.pack("<I", number))


def binary(data: bytes) -> Value:
    return Value(BINARY, data)


@dataclass(frozen=True, slots=True)
class Edit:
    r"""Set ``name`` of ``key`` (``A\B``, from the hive's root) to ``value``; None: remove the key with all below it."""

    key: str
    name: str
    value: Value | None


def remove_key(key: str) -> Edit:
    return Edit(key, "", None)


class Hive:
    """One hive in memory. Names are found in any case, as Windows does. Raises Corrupt for what hivex cannot read."""

    def __init__(self, data: bytes) -> None:
        check_header(data)
        import hivex  # of the distribution: python3-hivex

        self._original = data
        with _private_directory() as directory:
            path = Path(directory, "hive")
            path.write_bytes(data)
            self._h: Any = _ask("open", lambda: hivex.Hivex(str(path), write=True))

    def has(self, key: str) -> bool:
        return self._node(key) is not None

    def children(self, key: str) -> list[str]:
        """Names of the keys right below ``key``, empty when there is none. Raises Unsupported beyond 20,000."""
        node = self._node(key)
        if node is None:
            return []
        nodes = _ask(key, partial(self._h.node_children, node))
        if len(nodes) > MAX_CHILDREN:
            raise Unsupported(f"the guest's registry key {shown(key)} holds more than {MAX_CHILDREN} keys")
        return [str(_ask(key, partial(self._h.node_name, one))) for one in nodes]

    def get(self, key: str, name: str) -> Value | None:
        """The value, None when it or its key is absent. Raises Unsupported beyond 1 MiB."""
        node = self._node(key)
        if node is None:
            return None
        for one in _ask(key, partial(self._h.node_values, node)):
            if str(_ask(key, partial(self._h.value_key, one))).lower() == name.lower():
                kind, data = _ask(key, partial(self._h.value_value, one))
                if len(data) > MAX_VALUE_BYTES:
                    raise Unsupported(f"the guest's registry value {shown(name)} has {len(data)} bytes")
                return Value(int(kind), bytes(data))
        return None

    def text(self, key: str, name: str) -> str:
        value = self.get(key, name)
        return value.text() if value else ""

    def texts(self, key: str, name: str) -> list[str]:
        value = self.get(key, name)
        return value.texts() if value else []

    def number(self, key: str, name: str) -> int | None:
        value = self.get(key, name)
        return value.number() if value else None

    def apply(self, edits: Sequence[Edit]) -> None:
        for edit in edits:
            if edit.value is None:
                node = self._node(edit.key)
                if node is not None:
                    _ask(edit.key, partial(self._h.node_delete_child, node))
                continue
            if self.get(edit.key, edit.name) == edit.value:
                continue
            node, value = self._made(edit.key), edit.value
            entry = {"key": edit.name, "t": value.kind, "value": value.data}
            _ask(edit.key, partial(self._h.node_set_value, node, entry))

    def missing(self, edits: Sequence[Edit]) -> list[Edit]:
        """Those of ``edits`` that the hive does not have."""
        return [
            edit
            for edit in edits
            if (self.has(edit.key) if edit.value is None else self.get(edit.key, edit.name) != edit.value)
        ]

    def serialise(self) -> bytes:
        """The hive as a file."""
        with _private_directory() as directory:
            path = Path(directory, "hive")
            _ask("write", partial(self._h.commit, str(path)))
            return path.read_bytes()

    @property
    def original(self) -> bytes:
        return self._original

    def _node(self, key: str) -> Any:
        node = _ask(key, self._h.root)
        for part in key.split("\\"):
            node = _ask(key, partial(self._h.node_get_child, node, part))
            if not node:
                return None
        return node

    def _made(self, key: str) -> Any:
        node = _ask(key, self._h.root)
        for part in key.split("\\"):
            child = _ask(key, partial(self._h.node_get_child, node, part))
            node = child or _ask(key, partial(self._h.node_add_child, node, part))
        return node


def check_header(data: bytes) -> None:
    """Raises Corrupt for what is no whole hive, Unsupported for one with changes that wait in its logs."""
    if len(data) < 2 * PAGE_BYTES or data[:4] != b"regf":
        raise Corrupt("a registry hive of the guest is none: it does not begin as one")
    checksum = 0
    for (word,) in struct.iter_unpack("<I", data[:508]):
        checksum ^= word
    checksum = {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(checksum, checksum)
    (stored,) = struct.unpack_from("<I", data, 508)
    (bins,) = struct.unpack_from("<I", data, 40)
    if stored != checksum or PAGE_BYTES + bins > len(data):
        raise Corrupt("a registry hive of the guest is damaged: its base block does not fit")
    first, second = struct.unpack_from("<II", data, 4)
    if first != second:
        raise Unsupported(
            "the guest's registry has changes that wait in its transaction logs: start Windows, shut it down cleanly "
            "(shutdown /s /f /t 0) and replicate once more"
        )


def load(guest: Guest, path: str) -> Hive:
    """The hive at ``path``. Raises Unsupported beyond 512 MiB, Corrupt when it is none."""
    try:
        return Hive(read(guest, path, MAX_HIVE_BYTES))
    except Corrupt as error:
        raise Corrupt(f"{shown(path)}: {error.message}") from error


def store(guest: Guest, path: str, hive: Hive) -> int:
    """Write what differs from the file that ``load`` read; how many bytes were written."""
    new, old, written = hive.serialise(), hive.original, 0
    for start, end in changed_runs(old, new):
        guest.write_at(path, start, new[start:end])
        written += end - start
    if len(new) < len(old):
        guest.truncate(path, len(new))
    return written


def changed_runs(old: bytes, new: bytes) -> list[tuple[int, int]]:
    """(start, end) of ``new``, whole pages but for the last, that are not the same in ``old``."""
    runs: list[tuple[int, int]] = []
    for start in range(0, len(new), PAGE_BYTES):
        end = min(start + PAGE_BYTES, len(new))
        if old[start:end] == new[start:end]:
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """With mode 0700, where the worker's parent removes it when the worker is killed: a hive holds secrets."""
    return tempfile.TemporaryDirectory(prefix="coriolis-hive-", dir=scratch_directory())


def _ask(what: str, call: Callable[[], _T]) -> _T:
    try:
        return call()
    except (RuntimeError, OSError, UnicodeError) as error:
        raise Corrupt(f"the guest's registry cannot be read: {shown(what)}: {shown(error)}") from error
