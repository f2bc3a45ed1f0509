"""What an origin says about a machine before any of its bytes move."""

from __future__ import annotations

import enum

import msgspec


class Severity(enum.StrEnum):
    """``ERROR``: it cannot be migrated as it stands. ``WARNING``: it can, with a loss or a cost that is named."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Finding(msgspec.Struct, frozen=True):
    """``code``: one word for programs (``raw_device_mapping``). ``message``: what was found. ``advice``: what to do.

    ``disk_id``: the disk it is about, empty for the whole machine.
    """

    code: str
    severity: Severity
    message: str
    advice: str = ""
    disk_id: str = ""

    def __str__(self) -> str:
        subject = f"disk {self.disk_id}: " if self.disk_id else ""
        return f"{subject}{self.message}" + (f": {self.advice}" if self.advice else "")
