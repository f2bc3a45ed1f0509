"""A qcow2 overlay on an NBD export, and what changed in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec

from coriolis.convert.delta import MAX_DELTA_BYTES, MAX_EXTENTS, DeltaExtent
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded, TimedOut, Unavailable

SECTOR_BYTES = 512
SMALL_CLUSTER_BYTES = 4 << 10  # a delta of a third of the size of one with 64 KiB clusters
LARGE_CLUSTER_BYTES = 64 << 10
SMALL_CLUSTERS_UP_TO_BYTES = 4 << 40  # beyond, the table of a qcow2 with 4 KiB clusters nears QEMU's limit
QEMU_IMG_TIMEOUT_S = 120.0
MAX_MAP_BYTES = 256 << 20
READ_BYTES = 4 << 20


class OverlayExtent(msgspec.Struct, frozen=True):
    """A changed range of the disk.

    ``file_offset``: where its bytes are in the overlay file; None for zeroes.
    """

    offset: int
    length: int
    file_offset: int | None


class _MapEntry(msgspec.Struct, frozen=True):
    """One entry of ``qemu-img map --output=json``."""

    start: int
    length: int
    depth: int
    zero: bool
    data: bool
    offset: int | None = None


def cluster_bytes(disk_bytes: int) -> int:
    return SMALL_CLUSTER_BYTES if disk_bytes <= SMALL_CLUSTERS_UP_TO_BYTES else LARGE_CLUSTER_BYTES


async def create_overlay(path: Path, socket_path: Path, size: int) -> None:
    """Make the overlay ``path`` over the export at ``socket_path``; formats are stated, nothing is probed."""
    if size <= 0 or size % SECTOR_BYTES:
        raise InvalidInput(f"a disk of {size} bytes is not a multiple of {SECTOR_BYTES} bytes")
    backing = f"nbd+unix:///?socket={quote(str(socket_path))}"
    options = f"cluster_size={cluster_bytes(size)}"
    await qemu_img("create", "-q", "-f", "qcow2", "-o", options, "-F", "raw", "-b", backing, str(path), str(size))


async def changed_extents(path: Path, disk_bytes: int) -> list[OverlayExtent]:
    """What the overlay itself holds: increasing, disjoint. Raises QuotaExceeded beyond 2 GiB of changes."""
    raw = await qemu_img("map", "--output=json", "-f", "qcow2", str(path))
    try:
        entries = msgspec.json.decode(raw, type=list[_MapEntry])
    except msgspec.MsgspecError as error:
        raise Corrupt("qemu-img gave a map that cannot be read") from error
    return overlay_extents(entries, disk_bytes)


def overlay_extents(entries: Sequence[_MapEntry], disk_bytes: int) -> list[OverlayExtent]:
    """The entries of depth 0, neighbours joined, cut at the end of the disk."""
    found: list[OverlayExtent] = []
    end, total = 0, 0
    for entry in entries:
        length = min(entry.length, disk_bytes - entry.start)
        if entry.depth != 0 or length <= 0:
            continue
        if entry.start < end:
            raise Corrupt("qemu-img gave a map that goes backwards")
        file_offset = None if entry.zero else entry.offset
        if file_offset is None and not entry.zero:
            raise Corrupt("qemu-img gave a map without the place of changed data")
        end = entry.start + length
        total += 0 if file_offset is None else length
        _join(found, OverlayExtent(entry.start, length, file_offset))
    if total > MAX_DELTA_BYTES or len(found) > MAX_EXTENTS:
        raise QuotaExceeded(f"conversion changed {total} bytes in {len(found)} places, more than 2 GiB or 1,000,000")
    return found


def _join(found: list[OverlayExtent], extent: OverlayExtent) -> None:
    if found:
        last = found[-1]
        both_zero = last.file_offset is None and extent.file_offset is None
        adjoining_data = last.file_offset is not None and extent.file_offset == last.file_offset + last.length
        if last.offset + last.length == extent.offset and (both_zero or adjoining_data):
            found[-1] = OverlayExtent(last.offset, last.length + extent.length, last.file_offset)
            return
    found.append(extent)


def delta_extents(extents: Sequence[OverlayExtent]) -> tuple[DeltaExtent, ...]:
    return tuple(DeltaExtent(one.offset, one.length, one.file_offset is None) for one in extents)


def payload(path: Path, extents: Sequence[OverlayExtent]) -> Iterator[bytes]:
    """The bytes of the data extents, in order, at most 4 MiB at a time. Blocking. Raises Corrupt."""
    with open(path, "rb") as file:
        for extent in extents:
            if extent.file_offset is None:
                continue
            file.seek(extent.file_offset)
            left = extent.length
            while left:
                piece = file.read(min(left, READ_BYTES))
                if not piece:  # qcow2 does not extend its file for zeroes at its very end
                    piece = bytes(min(left, READ_BYTES))
                left -= len(piece)
                yield piece


async def qemu_img(*arguments: str) -> bytes:
    """What qemu-img printed. Raises Unavailable with its complaint, TimedOut after two minutes."""
    process = await asyncio.create_subprocess_exec(
        "qemu-img",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(QEMU_IMG_TIMEOUT_S):
            out, complaint = await process.communicate()
    except TimeoutError as error:
        raise TimedOut(f"qemu-img {arguments[0]} did not end within {QEMU_IMG_TIMEOUT_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = ascii(complaint.decode("utf-8", "replace").strip())[1:-1][:300]
        raise Unavailable(f"qemu-img {arguments[0]} failed: {text}")
    if len(out) > MAX_MAP_BYTES:
        raise Corrupt(f"qemu-img {arguments[0]} printed more than {MAX_MAP_BYTES} bytes")
    return out
