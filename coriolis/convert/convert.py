"""Convert a guest in an overlay on its sealed replicas and write the difference to the volumes that will
boot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from coriolis.convert import overlay, saved
from coriolis.convert.delta import Delta, DeltaHeader, apply, save
from coriolis.convert.overlaid import OnEvent, overlaid, remove_leftovers, run_over
from coriolis.convert.platforms import target_platform
from coriolis.convert.request import (
    ConversionFacts,
    ConversionRequest,
    ConversionResult,
    ConversionSettings,
    ConversionSummary,
    DiskChange,
    GuestSystem,
    is_mac,
)
from coriolis.errors import InvalidInput, Unsupported
from coriolis.providers.base import BlockReader, BlockWriter

CONVERTED = ("linux", "windows", "other")
"""An origin that does not know the system says "other": the disks tell."""
MAX_DISKS = 16
MAX_NICS = 32
MAX_MESSAGES = 200

DEFAULT_SETTINGS = ConversionSettings()


async def convert(
    request: ConversionRequest,
    readers: Sequence[BlockReader],
    writers: Sequence[BlockWriter],
    work_dir: Path,
    on_event: OnEvent,
    *,
    settings: ConversionSettings = DEFAULT_SETTINGS,
) -> ConversionResult:
    """Make the guest bootable on the target platform; one reader and one writer per disk, in boot order.

    Readers give the sealed replica, writers the volumes that will boot; each volume must hold the replica's
    content (it may be the replica itself). Nothing is written to a volume before conversion is verified and
    its delta is durable in ``work_dir``, which is private to this job and instance. Killed at any moment and
    called again with the same arguments, it ends with the same volumes: a complete delta is applied again, an
    incomplete one is computed anew.

    Raises Unsupported (what the guest is or has cannot be converted), Corrupt, QuotaExceeded, TimedOut,
    Unavailable, Conflict, InvalidInput, and whatever readers and writers raise. A failure before writing
    leaves the volumes as they were.
    """
    _check(request, readers, writers)
    with saved.locked(work_dir):
        found = await asyncio.to_thread(saved.find, work_dir, request)
        if found is not None:
            await asyncio.to_thread(remove_leftovers, work_dir)  # killed between its commit and its end
            on_event("this replica was converted before; its changes are written again")
        conversion = found or await _compute(request, readers, work_dir, on_event, settings)
        await asyncio.to_thread(saved.mark_applying, work_dir)
        for delta, writer in zip(conversion.deltas, writers, strict=True):
            await apply(delta, writer)
            size = delta.header.data_bytes
            on_event(f"disk {delta.header.disk_index}: {size} bytes in {len(delta.header.extents)} places written")
    return ConversionResult(
        disks=tuple(_change(delta) for delta in conversion.deltas),
        summary=conversion.manifest.summary,
        messages=conversion.manifest.messages,
        reapplied=found is not None,
    )


def _check(request: ConversionRequest, readers: Sequence[BlockReader], writers: Sequence[BlockWriter]) -> None:
    if not 1 <= len(readers) <= MAX_DISKS or len(readers) != len(writers):
        raise InvalidInput(f"{len(readers)} readers and {len(writers)} writers: 1 to {MAX_DISKS} of each are needed")
    if not request.replica_identity:
        raise InvalidInput("replica_identity is empty")
    for reader, writer in zip(readers, writers, strict=True):
        if writer.size < reader.size:
            raise InvalidInput(f"a volume of {writer.size} bytes cannot take a disk of {reader.size} bytes")
    check_guest(request)


def check_guest(request: ConversionRequest) -> None:
    """Raises InvalidInput, Unsupported for a guest of a kind that cannot be looked into."""
    bad = [mac for nic in request.nics for mac in (nic.mac, nic.was or nic.mac) if not is_mac(mac)]
    if bad or len(request.nics) > MAX_NICS:
        raise InvalidInput(f"nics: at most {MAX_NICS}, each with a MAC in lower case with colons; wrong: {bad[:3]}")
    target_platform(request.target_platform)
    if request.os_type not in CONVERTED:
        raise Unsupported(
            f"guests of type {request.os_type} cannot be converted, only linux and windows: skip_os_morphing moves "
            "them as they are"
        )


async def _compute(
    request: ConversionRequest,
    readers: Sequence[BlockReader],
    work_dir: Path,
    on_event: OnEvent,
    settings: ConversionSettings,
) -> saved.Saved:
    """Convert over the replicas; on return the deltas and their manifest are durable."""
    started = time.monotonic()
    await asyncio.to_thread(saved.discard, work_dir)
    messages: list[str] = []

    def say(text: str) -> None:
        if len(messages) < MAX_MESSAGES:
            messages.append(text)
        on_event(text)

    async with overlaid(readers, work_dir, settings, say) as disks:
        found = await run_over("convert", disks, request, settings, say)
        say(f"verified; {disks.bytes_read / (1 << 20):.1f} MiB of the replica were read")
        deltas = [
            await _save_delta(request, index, readers[index].size, path, work_dir)
            for index, path in enumerate(disks.overlays)
        ]
        summary = _summary(found, disks.accelerator, time.monotonic() - started)
        digests = tuple(delta.digest for delta in deltas)
        manifest = saved.Manifest(
            saved.request_digest(request), request.replica_identity, digests, summary, tuple(messages)
        )
        conversion = saved.Saved(manifest, tuple(deltas))
        await asyncio.to_thread(saved.commit, work_dir, conversion)
        return conversion


async def _save_delta(request: ConversionRequest, index: int, disk_bytes: int, path: Path, work_dir: Path) -> Delta:
    extents = await overlay.changed_extents(path, disk_bytes)
    header = DeltaHeader(index, disk_bytes, request.replica_identity, overlay.delta_extents(extents))
    target = saved.delta_path(work_dir, index)
    return await asyncio.to_thread(save, target, header, overlay.payload(path, extents))


def _summary(found: dict[str, Any], accelerator: str, seconds: float) -> ConversionSummary:
    return ConversionSummary(
        system=msgspec.convert(found["system"], GuestSystem),
        done=msgspec.convert(found["facts"], ConversionFacts),
        accelerator=accelerator,
        times=found["times"],
        seconds=round(seconds, 1),
    )


def _change(delta: Delta) -> DiskChange:
    header = delta.header
    return DiskChange(header.disk_index, len(header.extents), header.data_bytes, header.zero_bytes)
