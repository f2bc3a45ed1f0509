"""Kernel modules with nothing to run in them: just what depmod reads, an ELF object of x86-64."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def phony_module(aliases: Sequence[str] = (), exports: Sequence[str] = (), needs: Sequence[str] = ()) -> bytes:
    """``exports``: symbols that others may need; ``needs``: symbols of others."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in needs)
    symbols = bytes(24)
    for name in needs:
        symbols += struct.pack("<IBBHQQ", strings.index(b"\0" + name.encode() + b"\0") + 1, 0x10, 0, 0, 0, 0)
    sections = [
        (b"", 0, b"", 0),
        (b".modinfo", 1, b"license=GPL\0" + b"".join(b"alias=" + one.encode() + b"\0" for one in aliases), 0),
        (b"__ksymtab_strings", 1, b"".join(name.encode() + b"\0" for name in exports), 0),
        (b".symtab", 2, symbols, 24),
        (b".strtab", 3, strings, 0),
    ]
    names = b"".join(name + b"\0" for name, *_ in sections) + b".shstrtab\0"
    sections.append((b".shstrtab", 3, names, 0))
    body, headers = bytearray(64), b""
    for name, kind, data, entry in sections:
        link = 4 if kind == 2 else 0
        at = names.index(name + b"\0")
        headers += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, len(body), len(data), link, 1 if link else 0, 1, entry)
        body += data + bytes(-len(data) % 8)
    head = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(sections), len(sections) - 1)
    body[:64] = b"\x7fELF\x02\x01\x01" + bytes(9) + head
    return bytes(body) + headers
