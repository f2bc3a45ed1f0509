"""Paths in a mounted Windows: the system drive is at ``/c``, and names are found in any case."""

from __future__ import annotations

from coriolis.convert.guest import Guest
from coriolis.convert.text import shown
from coriolis.errors import Unsupported

DRIVE = "/c"
BOOT_PARTITION = "/system"
"""Where the EFI system partition or "System Reserved" is mounted, if it is one of its own."""
WINDOWS = f"{DRIVE}/Windows"
SYSTEM_HIVE = f"{WINDOWS}/System32/config/SYSTEM"
SOFTWARE_HIVE = f"{WINDOWS}/System32/config/SOFTWARE"


def place(guest: Guest, path: str) -> str:
    """``path`` in the case that the guest has, as far as it exists; the rest as given. Raises Unsupported."""
    found = ""
    parts = [part for part in path.split("/") if part]
    for index, part in enumerate(parts):
        exact = f"{found}/{part}"
        if not (guest.is_dir(exact) or guest.is_file(exact)):
            match = match_name(guest.listdir(found or "/"), part)
            if match is None:
                return "/".join([found, *parts[index:]])
            exact = f"{found}/{match}"
        found = exact
    return found or "/"


class Places:
    """``place`` for many files of few directories: each directory is found and listed once, as it was at first."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._directories: dict[str, tuple[str, list[str]]] = {}

    def __call__(self, path: str) -> str:
        directory, _, name = path.rpartition("/")
        if directory not in self._directories:
            found = place(self._guest, directory)
            self._directories[directory] = (found, self._guest.listdir(found))
        found, names = self._directories[directory]
        return f"{found}/{match_name(names, name) or name}"


def match_name(names: list[str], wanted: str) -> str | None:
    """The one name that is ``wanted`` but for its case. Raises Unsupported when two are: Windows never makes such."""
    matches = [name for name in names if name.lower() == wanted.lower()]
    if len(matches) > 1:
        raise Unsupported(f"the guest has two files called {shown(wanted)} that differ in case only")
    return matches[0] if matches else None
