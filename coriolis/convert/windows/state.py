"""A guest's hives, read once, and what they say of it."""

from __future__ import annotations

from dataclasses import dataclass

from coriolis.convert.guest import Guest
from coriolis.convert.windows import registry
from coriolis.convert.windows.paths import SOFTWARE_HIVE, SYSTEM_HIVE, place
from coriolis.convert.windows.registry import Hive
from coriolis.convert.windows.version import WindowsVersion, control_sets, version_of
from coriolis.convert.windows.volume import OnVolume
from coriolis.errors import Corrupt


@dataclass(frozen=True, slots=True)
class WindowsState:
    """``control_sets``: those Windows may start with, the current one first."""

    system: Hive
    software: Hive
    control_sets: tuple[str, ...]
    version: WindowsVersion

    @property
    def current(self) -> str:
        return self.control_sets[0]


def is_windows(guest: Guest) -> bool:
    """Mounted as one, and it has hives: a Linux with such names on its disk is none."""
    if not isinstance(guest, OnVolume):
        return False
    return guest.is_file(place(guest, SYSTEM_HIVE)) and guest.is_file(place(guest, SOFTWARE_HIVE))


def load_state(guest: Guest) -> WindowsState:
    """Raises Unsupported (too large, changes wait in logs), Corrupt (damaged)."""
    system = registry.load(guest, place(guest, SYSTEM_HIVE))
    software = registry.load(guest, place(guest, SOFTWARE_HIVE))
    sets = tuple(control_sets(system))
    if not sets:
        raise Corrupt("the guest's SYSTEM hive selects no control set that it has")
    return WindowsState(system, software, sets, version_of(software, system, sets[0]))


def store_state(guest: Guest, state: WindowsState) -> int:
    """Bytes written."""
    written = registry.store(guest, place(guest, SYSTEM_HIVE), state.system)
    return written + registry.store(guest, place(guest, SOFTWARE_HIVE), state.software)
