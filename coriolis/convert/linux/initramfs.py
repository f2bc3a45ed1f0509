"""What may be appended to an existing initramfs, and how, so that the kernel unpacks both.

The kernel reads a chain of segments: plain cpio archives (early microcode must stay first) and compressed
ones. A later file of the same name wins. Rules learnt by booting: what follows a compressed segment must
begin at a multiple of 4 bytes; after an lz4 segment the kernel expects further lz4 data, so the archive goes
in as another lz4 legacy frame.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from coriolis.convert.linux import cpio
from coriolis.errors import Corrupt, Unsupported

MAX_INITRAMFS_BYTES = 1 << 30
MAX_EARLY_MEMBERS = 10_000
MAX_ADDED_BYTES = 256 << 20
MAX_LZ4_CHUNKS = 1000  # each is 8 MiB unpacked, the last of a frame less
_LZ4_LEGACY_MAGIC = 0x184C2102
_LZ4_BLOCK_BYTES = 8 << 20
_LZ4_MAX_CHUNK_BYTES = _LZ4_BLOCK_BYTES + _LZ4_BLOCK_BYTES // 255 + 16
PROBE_BYTES = 4096
ZEROES_BYTES = 1 << 20  # a sparse file is skipped in minutes, not hours
_COMPRESSIONS = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO", "lzo"),
)

ReadAt = Callable[[int, int], bytes]
"""(offset, length) -> at most ``length`` bytes of the file; fewer only at its end."""


@dataclass(frozen=True, slots=True)
class Segment:
    """``kind``: cpio, or the compression of everything from ``offset`` to the end."""

    offset: int
    kind: str


def segments(read_at: ReadAt, size: int) -> list[Segment]:
    """The segments of an initramfs of ``size`` bytes; only headers are read, compressed data is not looked
    into.

    Raises Unsupported for an unknown compression, Corrupt for a malformed archive.
    """
    if not cpio.HEADER_BYTES < size <= MAX_INITRAMFS_BYTES:
        raise Unsupported(f"an initramfs of {size} bytes is outside 110 bytes to 1 GiB")
    found: list[Segment] = []
    offset = _skip_zeroes(read_at, 0, size)
    while offset < size:
        head = read_at(offset, PROBE_BYTES)
        if head[:6] not in cpio.MAGICS:
            kind = compression_of(head)
            if kind is None:
                raise Unsupported(f"unknown initramfs format at byte {offset}; it was left alone")
            return [*found, Segment(offset, kind)]
        found.append(Segment(offset, "cpio"))
        offset = _skip_zeroes(read_at, _end_of_archive(read_at, offset, size), size)
    if not found:
        raise Corrupt("the initramfs holds nothing but zeroes")
    return found


def compression_of(head: bytes) -> str | None:
    """The compression whose magic ``head`` begins with."""
    return next((name for magic, name in _COMPRESSIONS if head.startswith(magic)), None)


def refuse_padded_lz4(read_at: ReadAt, offset: int, size: int) -> None:
    """Raises Unsupported when something follows the lz4 stream at ``offset``: older kernels stop there."""
    at, chunks = offset + 4, 0
    while at + 4 <= size:
        chunks += 1
        if chunks > MAX_LZ4_CHUNKS:
            raise Unsupported(f"the initramfs has more than {MAX_LZ4_CHUNKS} lz4 chunks: they were not looked through")
        (length,) = struct.unpack("<I", read_at(at, 4))
        if length == _LZ4_LEGACY_MAGIC:
            at += 4
        elif 0 < length <= _LZ4_MAX_CHUNK_BYTES:
            at += 4 + length
        else:
            break
    if at != size:
        raise Unsupported("the initramfs has padding after its lz4 stream: nothing can be appended to it")


def _end_of_archive(read_at: ReadAt, offset: int, size: int) -> int:
    for _ in range(MAX_EARLY_MEMBERS):
        raw = read_at(offset, PROBE_BYTES + cpio.HEADER_BYTES)
        header = cpio.parse_header(raw)
        name = raw[cpio.HEADER_BYTES : cpio.HEADER_BYTES + header.name_size - 1]
        offset += header.next_offset
        if offset > size:
            raise Corrupt("the initramfs is cut off")
        if name == cpio.TRAILER.encode():
            return offset
    raise Unsupported(f"an uncompressed archive with more than {MAX_EARLY_MEMBERS} members leads the initramfs")


def _skip_zeroes(read_at: ReadAt, offset: int, size: int) -> int:
    length = PROBE_BYTES
    while offset < size:
        block = read_at(offset, length)
        length = ZEROES_BYTES
        if not block:
            raise Corrupt("the initramfs is shorter than its file says")
        rest = block.lstrip(b"\0")
        if rest:
            return offset + len(block) - len(rest)
        offset += len(block)
    return size


def kernel_unpacks_gzip(kernel_config: str) -> bool:
    """Whether the kernel's ``/boot/config-V`` promises a gzip decoder for the initramfs."""
    return "\nCONFIG_RD_GZIP=y" in "\n" + kernel_config


def appendix(old_size: int, last_kind: str, archive: bytes, *, use_gzip: bool) -> bytes:
    """The bytes to write at ``old_size``: padding, then ``archive`` as it may follow ``last_kind``."""
    if len(archive) > MAX_ADDED_BYTES:
        raise Unsupported(f"drivers of {len(archive)} bytes are more than {MAX_ADDED_BYTES} for one initramfs")
    if last_kind == "lz4":
        return lz4_legacy_frame(archive)
    body = gzip.compress(archive, 6, mtime=0) if use_gzip else archive
    return bytes(-old_size % 4) + body


def archive_in(appended: bytes) -> bytes:
    """The archive inside an ``appendix``: the inverse, used to verify what is on the disk. Raises Corrupt."""
    body = appended.lstrip(b"\0")
    try:
        if body.startswith(b"\x1f\x8b"):
            return _gunzip(body)
        if body.startswith(struct.pack("<I", _LZ4_LEGACY_MAGIC)):
            return _literals_of_lz4(body)
    except (zlib.error, struct.error) as error:
        raise Corrupt("the archive appended to the initramfs cannot be unpacked") from error
    return body


def lz4_legacy_frame(data: bytes) -> bytes:
    """``data`` as an lz4 legacy frame of literals: stored, so that no lz4 library is needed."""
    out = bytearray(struct.pack("<I", _LZ4_LEGACY_MAGIC))
    for at in range(0, len(data), _LZ4_BLOCK_BYTES):
        chunk = data[at : at + _LZ4_BLOCK_BYTES]
        if len(chunk) < 15:
            token = bytes([len(chunk) << 4])
        else:
            more = len(chunk) - 15
            token = b"\xf0" + b"\xff" * (more // 255) + bytes([more % 255])
        out += struct.pack("<I", len(token) + len(chunk)) + token + chunk
    return bytes(out)


def _gunzip(body: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    data = stream.decompress(body, MAX_ADDED_BYTES)
    if not stream.eof:
        raise Corrupt("the archive appended to the initramfs is cut off or too long")
    return data


def _literals_of_lz4(frame: bytes) -> bytes:
    out, at = bytearray(), 4
    while at < len(frame):
        (length,) = struct.unpack_from("<I", frame, at)
        block = frame[at + 4 : at + 4 + length]
        at += 4 + length
        if not block or block[0] & 0x0F:
            raise Corrupt("the appended lz4 frame is not one of literals")
        used, literals = 1, block[0] >> 4
        while literals >= 15 and used < len(block):
            literals += block[used]
            used += 1
            if block[used - 1] != 255:
                break
        if len(block) - used != literals:
            raise Corrupt("the appended lz4 frame is cut off")
        out += block[used:]
    return bytes(out)
