"""The difference that conversion makes to one disk: a durable file, applied as often as need be.

File: magic, length of the header (u64 little endian), header (JSON), the bytes of the data extents in order,
blake3 of all before. It appears under its name only when it is complete and on stable storage.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec
from blake3 import blake3

from coriolis.durable_file import sync_directory
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded
from coriolis.providers.base import BlockWriter

MAX_DELTA_BYTES = 2 << 30
MAX_EXTENTS = 1_000_000
MAX_HEADER_BYTES = 64 << 20
PIECE_BYTES = 4 << 20
_MAGIC = b"coriolis-delta-1"
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = 32


class DeltaExtent(msgspec.Struct, frozen=True, array_like=True):
    """A range of the disk: data of the payload, or zeroes."""

    offset: int
    length: int
    zero: bool


class DeltaHeader(msgspec.Struct, frozen=True):
    """``extents``: increasing, disjoint, inside ``disk_bytes``."""

    disk_index: int
    disk_bytes: int
    replica_identity: str
    extents: tuple[DeltaExtent, ...]

    @property
    def data_bytes(self) -> int:
        return sum(one.length for one in self.extents if not one.zero)

    @property
    def zero_bytes(self) -> int:
        return sum(one.length for one in self.extents if one.zero)


class Delta(msgspec.Struct, frozen=True):
    """A delta whose file was read to its end and found whole. ``digest``: hexadecimal."""

    path: Path
    header: DeltaHeader
    payload_offset: int
    digest: str


def save(path: Path, header: DeltaHeader, payload: Iterable[bytes]) -> Delta:
    """Write the delta durably under ``path``. Blocking.

    Raises QuotaExceeded beyond 2 GiB or when the directory's storage is full, Corrupt when ``payload`` has
    another length than the header's extents.
    """
    check(header)
    raw = msgspec.json.encode(header)
    start = _MAGIC + _LENGTH.pack(len(raw)) + raw
    part, hasher, written = path.with_name(path.name + ".part"), blake3(), 0
    try:
        with open(part, "wb") as file:
            hasher.update(start)
            file.write(start)
            for piece in payload:
                hasher.update(piece)
                file.write(piece)
                written += len(piece)
            if written != header.data_bytes:
                raise Corrupt(f"the delta has {written} bytes where its extents say {header.data_bytes}")
            file.write(hasher.digest())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise QuotaExceeded(f"the delta of {header.data_bytes} bytes cannot be kept in {path.parent}") from error
    part.replace(path)
    sync_directory(path.parent)
    return Delta(path, header, len(start), hasher.hexdigest())


def load(path: Path) -> Delta:
    """Read and check the whole file. Blocking. Raises Corrupt when it is torn or not a delta."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(len(_MAGIC) + _LENGTH.size)
            if len(start) < len(_MAGIC) + _LENGTH.size or not start.startswith(_MAGIC):
                raise Corrupt(f"{path} is not a delta")
            (length,) = _LENGTH.unpack(start[len(_MAGIC) :])
            if length > MAX_HEADER_BYTES or len(start) + length + _DIGEST_BYTES > size:
                raise Corrupt(f"{path} is cut off")
            raw = file.read(length)
            hasher, left = blake3(start + raw), size - len(start) - length - _DIGEST_BYTES
            payload_bytes = left
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise Corrupt(f"{path} became shorter while it was read")
                hasher.update(piece)
                left -= len(piece)
            if file.read(_DIGEST_BYTES) != hasher.digest():
                raise Corrupt(f"{path} does not have its digest; it was damaged or cut off")
        header = msgspec.json.decode(raw, type=DeltaHeader)
    except (OSError, msgspec.MsgspecError) as error:
        raise Corrupt(f"the delta {path} cannot be read") from error
    check(header)
    if header.data_bytes != payload_bytes:
        raise Corrupt(f"{path} has {payload_bytes} bytes where its extents say {header.data_bytes}")
    return Delta(path, header, len(start) + length, hasher.hexdigest())


def check(header: DeltaHeader) -> None:
    """Raises Corrupt for extents out of order or out of the disk, QuotaExceeded beyond the limits."""
    end = 0
    for one in header.extents:
        if one.length <= 0 or one.offset < end or one.offset + one.length > header.disk_bytes:
            raise Corrupt(f"the delta has a bad extent at byte {one.offset}")
        end = one.offset + one.length
    if header.data_bytes > MAX_DELTA_BYTES or len(header.extents) > MAX_EXTENTS:
        raise QuotaExceeded(
            f"a delta of {header.data_bytes} bytes in {len(header.extents)} extents is over 2 GiB or 10^6"
        )


async def apply(delta: Delta, writer: BlockWriter) -> None:
    """Write every extent, then flush. Repeating it, after any interruption too, gives the same volume."""
    if writer.size < delta.header.disk_bytes:
        raise InvalidInput(f"the volume has {writer.size} bytes, the converted disk {delta.header.disk_bytes}")
    descriptor = os.open(delta.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = delta.payload_offset
        for extent in delta.header.extents:
            if extent.zero:
                await writer.write_zeroes(extent.offset, extent.length)
                continue
            for start in range(0, extent.length, PIECE_BYTES):
                length = min(PIECE_BYTES, extent.length - start)
                data = await asyncio.to_thread(os.pread, descriptor, length, at)
                if len(data) != length:
                    raise Corrupt(f"{delta.path} became shorter while it was applied")
                await writer.write_at(extent.offset + start, data)
                at += length
        await writer.flush()
    finally:
        os.close(descriptor)
