"""Files as they were before the conversion, kept in the guest below ``/var/lib/coriolis/before``.

To undo an edit, copy the file back to the path that follows ``before``.
"""

from __future__ import annotations

from collections.abc import Callable

from coriolis.convert.guest import Guest, read_text
from coriolis.convert.plugin import Say
from coriolis.convert.text import encode, shown

BEFORE = "/var/lib/coriolis/before"


def keep_copy(guest: Guest, path: str) -> None:
    """Copy ``path``, unless a former conversion did: the first copy is the guest's own."""
    if not guest.is_file(BEFORE + path):
        guest.copy(path, BEFORE + path)


def move_aside(guest: Guest, path: str) -> None:
    """Take ``path`` out of its place; the guest's own first version stays kept."""
    keep_copy(guest, path)
    guest.remove(path)


def edit_file(guest: Guest, path: str, change: Callable[[str], str], say: Say, *, keep: bool = True) -> bool:
    """Write ``change`` of the text of ``path`` if that differs, with ``keep`` keeping what was; whether it did."""
    if not guest.is_file(path):
        return False
    old = read_text(guest, path)
    new = change(old)
    if new == old:
        return False
    if keep:
        keep_copy(guest, path)
    guest.write(path, encode(new))
    say(f"{shown(path)}: edited")
    return True
