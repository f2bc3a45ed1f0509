"""What a guest is and what conversion would do with it; its disks are only read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from coriolis.convert.convert import MAX_DISKS, check_guest
from coriolis.convert.overlaid import OnEvent, overlaid, run_over
from coriolis.convert.request import ConversionRequest, ConversionSettings, GuestSystem
from coriolis.errors import InvalidInput
from coriolis.providers.base import BlockReader


class PlannedStep(msgspec.Struct, frozen=True):
    name: str
    title: str


class GuestFinding(msgspec.Struct, frozen=True):
    """As ``plugin.Finding``. An ``error`` means that conversion would refuse the guest."""

    severity: str
    code: str
    message: str
    action: str = ""


class Inspection(msgspec.Struct, frozen=True):
    """``convertible``: no finding stands in the way."""

    system: GuestSystem
    steps: tuple[PlannedStep, ...]
    findings: tuple[GuestFinding, ...]

    @property
    def convertible(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)


async def inspect(
    request: ConversionRequest,
    readers: Sequence[BlockReader],
    work_dir: Path,
    on_event: OnEvent,
    settings: ConversionSettings,
) -> Inspection:
    """One reader per disk, in boot order; ``work_dir`` is private to this inspection.

    Raises Unsupported when no system is found, Corrupt, TimedOut, Unavailable, InvalidInput, and what readers raise.
    """
    if not 1 <= len(readers) <= MAX_DISKS:
        raise InvalidInput(f"the machine has {len(readers)} disks; 1 to {MAX_DISKS} can be looked into")
    check_guest(request)
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with overlaid(readers, work_dir, settings, on_event) as disks:
        found: dict[str, Any] = await run_over("inspect", disks, request, settings, on_event)
        on_event(f"{disks.bytes_read / (1 << 20):.1f} MiB of the disks were read")
    return msgspec.convert(found, Inspection)
