"""kmod's binary index (``modules.dep.bin``, ``modules.alias.bin``): a prefix tree, big-endian (libkmod-index.c)."""

from __future__ import annotations

import struct

from coriolis.errors import Corrupt

MAX_NODES = 200_000
MAX_KEY_CHARS = 4096
_MAGIC, _MAJOR_VERSION = 0xB007F457, 2
_PREFIX, _VALUES, _CHILDREN, _OFFSET = 0x80000000, 0x40000000, 0x20000000, 0x0FFFFFFF


def entries(index: bytes) -> dict[str, str]:
    """Key -> value of the least priority number. Raises Corrupt for anything that is no such index."""
    found: dict[str, str] = {}
    try:
        magic, version, root = struct.unpack_from(">III", index)
        if magic != _MAGIC or version >> 16 != _MAJOR_VERSION:
            raise Corrupt("a module index of the guest is not one of kmod")
        queue, seen = [(root, "")], 0
        while queue:
            node, key = queue.pop()
            seen += 1
            if seen + len(queue) > MAX_NODES:
                raise Corrupt(f"a module index of the guest has more than {MAX_NODES} nodes")
            at = node & _OFFSET
            if node & _PREFIX:
                prefix, at = _text(index, at)
                key += prefix
            if len(key) > MAX_KEY_CHARS:
                raise Corrupt("a module index of the guest has an endless key")
            if node & _CHILDREN:
                first, last = index[at], index[at + 1]
                at += 2
                for code in range(first, last + 1):
                    (child,) = struct.unpack_from(">I", index, at)
                    at += 4
                    if child:
                        queue.append((child, key + chr(code)))
            if node & _VALUES:
                (count,) = struct.unpack_from(">I", index, at)
                if count:
                    found[key], _ = _text(index, at + 8)
    except (struct.error, IndexError, ValueError) as error:
        raise Corrupt("a module index of the guest is damaged") from error
    return found


def _text(index: bytes, at: int) -> tuple[str, int]:
    end = index.index(b"\0", at)
    return index[at:end].decode("ascii", "replace"), end + 1
