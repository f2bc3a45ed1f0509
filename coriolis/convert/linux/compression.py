"""Unpack what a guest's initramfs and kernel modules are compressed with, and say where the stream ends.

gzip, xz, bzip2 and lzma by the standard library; zstd, lz4 and lzo by this machine's own tools.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib

from coriolis.convert.linux.host_tools import run_tool
from coriolis.errors import Corrupt, Unsupported

MAX_UNPACKED_BYTES = 1 << 30
_LZMA_MEMORY_BYTES = 512 << 20
_LZ4_LEGACY_MAGIC = 0x184C2102
_LZ4_MAX_CHUNK_BYTES = (8 << 20) + (8 << 20) // 255 + 16
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_MODULE_KINDS = {".xz": "xz", ".zst": "zstd", ".gz": "gzip", ".bz2": "bzip2"}

Buffer = bytes | memoryview


def unpacked(kind: str, data: Buffer, limit: int = MAX_UNPACKED_BYTES) -> tuple[bytes, int]:
    """(content, length of the compressed stream at the start of ``data``).

    Raises Corrupt when the stream is damaged or cut off, Unsupported when it unpacks to more than ``limit`` bytes or
    a tool is missing.
    """
    if kind in ("zstd", "lz4", "lzo"):
        end = {"zstd": zstd_end, "lz4": lz4_end, "lzo": lzop_end}[kind](data)
        tool, package = {"zstd": ("zstd", "zstd"), "lz4": ("lz4", "lz4"), "lzo": ("lzop", "lzop")}[kind]
        return run_tool((tool, "-dc"), package, data[:end], limit), end
    try:
        if kind == "gzip":
            return _by_zlib(data, limit)
        return _by_decompressor(_decompressor(kind), data, limit)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise Corrupt(f"a {kind} stream of the guest is damaged") from error


def plain_module(path: str, data: bytes, limit: int) -> bytes:
    """A kernel module as the kernel wants it; ``path`` says by its ending how it is packed. Signatures stay."""
    kind = next((kind for ending, kind in _MODULE_KINDS.items() if path.endswith(".ko" + ending)), None)
    return unpacked(kind, data, limit)[0] if kind else data


def zstd_end(data: Buffer) -> int:
    """Where the zstd frames at the start of ``data`` end (RFC 8878, 3.1). Raises Corrupt."""
    at = 0
    try:
        while at + 4 <= len(data):
            (magic,) = struct.unpack_from("<I", data, at)
            if magic in _ZSTD_SKIPPABLE and at:
                at += 8 + struct.unpack_from("<I", data, at + 4)[0]
            elif magic == _ZSTD_MAGIC:
                at = _zstd_frame_end(data, at)
            else:
                break
            if at > len(data):
                raise Corrupt("a zstd stream of the guest is cut off")
    except (struct.error, IndexError) as error:
        raise Corrupt("a zstd stream of the guest is cut off") from error
    return at


def _zstd_frame_end(data: Buffer, at: int) -> int:
    descriptor = data[at + 4]
    single = bool(descriptor & 0x20)
    content_size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    at += 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + content_size
    while True:
        header = int.from_bytes(data[at : at + 3], "little")
        if at + 3 > len(data):
            raise Corrupt("a zstd stream of the guest is cut off")
        at += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)  # a run has one byte, whatever its length
        if header & 1:
            return at + (4 if descriptor & 4 else 0)


def lz4_end(data: Buffer) -> int:
    """Where the legacy lz4 frames at the start of ``data`` end. Raises Corrupt."""
    at = 4
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        if length == _LZ4_LEGACY_MAGIC:
            at += 4
        elif 0 < length <= _LZ4_MAX_CHUNK_BYTES:
            at += 4 + length
        else:
            break
    if at > len(data):
        raise Corrupt("an lz4 stream of the guest is cut off")
    return at


def lzop_end(data: Buffer) -> int:
    """Where the lzop file at the start of ``data`` ends, by the kernel's decompress_unlzo.c. Raises Corrupt."""
    try:
        (version,) = struct.unpack_from(">H", data, 9)
        newer = version >= 0x0940
        at = 9 + (6 if newer else 4) + (2 if newer else 1)
        (flags,) = struct.unpack_from(">I", data, at)
        at += 4 + (4 if flags & 0x800 else 0) + (12 if newer else 8)
        at += 1 + data[at] + 4
        plain_sums, packed_sums = (sum(4 for bit in bits if flags & bit) for bits in ((0x1, 0x100), (0x2, 0x200)))
        while True:
            (plain,) = struct.unpack_from(">I", data, at)
            if plain == 0:
                return at + 4
            (packed,) = struct.unpack_from(">I", data, at + 4)
            at += 8 + plain_sums + (packed_sums if packed < plain else 0) + packed
    except (struct.error, IndexError) as error:
        raise Corrupt("an lzo stream of the guest is cut off") from error


def _by_zlib(data: Buffer, limit: int) -> tuple[bytes, int]:
    stream = zlib.decompressobj(wbits=31)
    out = stream.decompress(data, limit + 1)
    _check_end(stream.eof, len(out), limit)
    return out, len(data) - len(stream.unused_data)


def _decompressor(kind: str) -> bz2.BZ2Decompressor | lzma.LZMADecompressor:
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    if kind in ("xz", "lzma"):
        container = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
        return lzma.LZMADecompressor(container, memlimit=_LZMA_MEMORY_BYTES)
    raise Unsupported(f"compression {kind} is not known")


def _by_decompressor(
    stream: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: Buffer, limit: int
) -> tuple[bytes, int]:
    out = stream.decompress(data, limit + 1)
    _check_end(stream.eof, len(out), limit)
    return out, len(data) - len(stream.unused_data)


def _check_end(ended: bool, length: int, limit: int) -> None:
    if length > limit:
        raise Unsupported(f"compressed data of the guest unpacks to more than {limit} bytes")
    if not ended:
        raise Corrupt("a compressed stream of the guest is cut off")
