"""What the system drive's NTFS and partition table say before anything is mounted. Pure: bytes in, facts out.

Layout of NTFS as published (Linux-NTFS documentation, ``$Boot`` and ``$Volume``): the boot sector gives the place of
the master file table; its record 3 is ``$Volume``, whose attribute 0x70 holds the volume's flags.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from coriolis.errors import Corrupt

DIRTY = 0x0001
BITLOCKER = b"-FVE-FS-"
_VOLUME_RECORD = 3
_VOLUME_INFORMATION = 0x70
_END_OF_ATTRIBUTES = 0xFFFFFFFF
MAX_RECORD_BYTES = 64 << 10

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the volume."""


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """``dirty``: NTFS wants a check. ``read_only``: the driver refused to mount it for writing.

    ``table``: partition table of the disk that Windows starts from, ``msdos`` or ``gpt``; ``active``: it has an active
    partition (BIOS starts from nothing else).
    """

    dirty: bool
    read_only: bool
    table: str
    active: bool


@runtime_checkable
class OnVolume(Protocol):
    """A guest whose system drive was looked at before it was mounted."""

    volume: VolumeFacts


def is_bitlocker(sector: bytes) -> bool:
    """``sector``: the first bytes of a partition. Encrypted volumes carry this where NTFS writes its name."""
    return sector[3:11] == BITLOCKER


def volume_flags(read_at: ReadAt) -> int:
    """Flags of an NTFS volume. Raises Corrupt for what is no NTFS."""
    boot = read_at(0, 512)
    if len(boot) < 512 or boot[3:11] != b"NTFS    ":
        raise Corrupt("the Windows drive does not begin as NTFS")
    sector_bytes, sectors = struct.unpack_from("<HB", boot, 11)
    per_cluster = sectors if sectors <= 128 else 1 << (256 - sectors)
    (table_cluster,) = struct.unpack_from("<Q", boot, 48)
    (clusters,) = struct.unpack_from("<b", boot, 64)
    cluster_bytes = sector_bytes * per_cluster
    record_bytes = clusters * cluster_bytes if clusters > 0 else 1 << -clusters
    if sector_bytes not in (512, 1024, 2048, 4096) or not 512 <= record_bytes <= MAX_RECORD_BYTES:
        raise Corrupt("the Windows drive's NTFS has sizes that no NTFS has")
    raw = read_at(table_cluster * cluster_bytes + _VOLUME_RECORD * record_bytes, record_bytes)
    return _flags_in(_repaired(raw, record_bytes))


def _repaired(raw: bytes, record_bytes: int) -> bytes:
    """The record with the last two bytes of each 512 put back from its update sequence."""
    if len(raw) != record_bytes or raw[:4] != b"FILE":
        raise Corrupt("the Windows drive's NTFS has no $Volume where it belongs")
    at, count = struct.unpack_from("<HH", raw, 4)
    record = bytearray(raw)
    if at + 2 * count > record_bytes or (count - 1) * 512 > record_bytes:
        raise Corrupt("the Windows drive's NTFS has a damaged $Volume")
    for block in range(1, count):
        end = block * 512
        if record[end - 2 : end] != raw[at : at + 2]:
            raise Corrupt("the Windows drive's NTFS has a torn $Volume")
        record[end - 2 : end] = raw[at + 2 * block : at + 2 * block + 2]
    return bytes(record)


def _flags_in(record: bytes) -> int:
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 24 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _END_OF_ATTRIBUTES or length < 24:
            break
        if kind == _VOLUME_INFORMATION:
            (content,) = struct.unpack_from("<H", record, at + 20)
            if at + content + 12 <= len(record):
                return int(struct.unpack_from("<H", record, at + content + 10)[0])
        at += length
    raise Corrupt("the Windows drive's NTFS does not tell its state")
