"""The paces of a task's disks, as its agent was told them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coriolis.transfer.pace import Pace

HOLD_RATE = 64 << 10
"""Bytes per second of a disk that is limited but not named yet: a whole frame takes longer than the leader needs."""


class Paces:
    """One Pace per disk, made when first asked for; ``tell`` changes all of them."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}
        self._rates: dict[str, float] = {}
        self._unlimited = True

    def of_disk(self, disk_id: str) -> Pace:
        """The same object for the same disk."""
        if disk_id not in self._paces:
            self._paces[disk_id] = Pace(self._rate(disk_id))
        return self._paces[disk_id]

    def begin(self, given: Any, now: float) -> None:
        """Rates that came with the assignment: ``{"unlimited": bool, "disks": {disk id: bytes/s}}``; None is none."""
        if isinstance(given, Mapping):
            self.tell(given.get("disks") or {}, now, unlimited=bool(given.get("unlimited")))

    def tell(self, rates: Mapping[str, float], now: float, *, unlimited: bool) -> None:
        """From now on. A disk that is not named keeps what it had."""
        self._unlimited = unlimited
        self._rates = {} if unlimited else {**self._rates, **rates}
        for disk_id, pace in self._paces.items():
            pace.set_rate(self._rate(disk_id), now)

    def _rate(self, disk_id: str) -> float | None:
        return None if self._unlimited else self._rates.get(disk_id, HOLD_RATE)
