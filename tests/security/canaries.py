"""Looks for a secret in everything that a mesh leaves or shows, however it is written down (invariant I9)."""

from __future__ import annotations

import base64
import json
import mmap
import secrets
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

CANARY_BYTES = 24
MIN_ENCODED = 16
"""Shorter pieces would be found by chance."""
HARD_CHARACTERS = '"\\/<&é'
"""Make URL and JSON escapes of a canary differ from its raw form."""


def new_canary() -> str:
    """A fresh secret: 24 random bytes as text, with characters that every encoding escapes."""
    return secrets.token_urlsafe(CANARY_BYTES) + HARD_CHARACTERS + secrets.token_urlsafe(8)


def encodings(canary: str) -> dict[str, bytes]:
    """What to look for, by name of the encoding."""
    raw = canary.encode()
    found = {
        "raw": raw,
        "url": quote(canary, safe="").encode(),
        "url-path": quote(canary).encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "json": json.dumps(canary)[1:-1].encode(),
        "json-utf8": json.dumps(canary, ensure_ascii=False)[1:-1].encode(),
        "json-twice": json.dumps(json.dumps(canary))[3:-3].encode(),
        "repr": repr(canary)[1:-1].encode(),
        "utf-16": canary.encode("utf-16-le"),
    }
    for shift in range(3):
        for name, code in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            whole = code(bytes(shift) + raw)
            # what depends on the neighbours of the canary is cut off at both ends
            found[f"{name}+{shift}"] = whole[4 * (shift > 0) : len(whole) // 4 * 4 - 4]
    assert all(len(text) >= MIN_ENCODED for text in found.values())
    return found


def hits_in(where: str, content: bytes | mmap.mmap, canaries: dict[str, str]) -> list[str]:
    """``<place>: <canary's name> as <encoding>`` for each that is in ``content``."""
    return [
        f"{where}: {name} as {encoding}"
        for name, canary in canaries.items()
        for encoding, text in encodings(canary).items()
        if content.find(text) >= 0
    ]


def hits_in_files(folders: Iterable[Path], canaries: dict[str, str]) -> list[str]:
    """Every regular file below the folders: logs, journals, etcd's database and write-ahead log, sealed secrets."""
    hits: list[str] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.is_symlink() or not path.stat().st_size:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                hits += hits_in(str(path), content, canaries)
    return hits


def hits_in_processes(pids: Iterable[int], canaries: dict[str, str]) -> list[str]:
    """Command lines and environments of running processes; those that have ended show nothing."""
    hits: list[str] = []
    for pid in pids:
        for name in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            hits += hits_in(f"/proc/{pid}/{name}", content, canaries)
    return hits
