"""Small stand-ins for binary files, and writing into the tree of a phony guest."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path


def put(top: Path, path: str, data: str | bytes, mode: int = 0o644) -> None:
    """Write ``path`` of the guest whose root is ``top``."""
    target = top / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data.encode() if isinstance(data, str) else data)
    target.chmod(mode)


def link(top: Path, path: str, target: str) -> None:
    place = top / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(target)


def elf() -> bytes:
    """A static x86-64 program that exits with 0: real enough for inspection to tell the architecture."""
    code = b"\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"  # mov eax,60; xor edi,edi; syscall
    head = struct.pack(
        *("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 0x3E, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    size = 0x78 + len(code)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x1000) + code


def kernel_image(version: str) -> bytes:
    """A stand-in for a bzImage: boot sector magic, "HdrS" and the version string where file(1) looks for them."""
    image = bytearray(0x4000)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x208] = b"HdrS\x0f\x02"
    image[0x20E:0x210] = (0x1000).to_bytes(2, "little")
    text = f"{version} (phony@build) #1 SMP".encode() + b"\0"
    image[0x1200 : 0x1200 + len(text)] = text
    return bytes(image)


def compressed(data: bytes, suffix: str) -> bytes:
    """``data`` as a module file with ``suffix`` has it."""
    if suffix.endswith(".xz"):
        return lzma.compress(data, check=lzma.CHECK_CRC32)
    return zstd_stored(data) if suffix.endswith(".zst") else data


def zstd_stored(data: bytes) -> bytes:
    """A zstd frame of raw blocks: valid, and no zstd library is needed."""
    blocks = [data[at : at + 0x10000] for at in range(0, len(data), 0x10000)] or [b""]
    out = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data))
    for number, block in enumerate(blocks):
        header = len(block) << 3 | (number == len(blocks) - 1)
        out += header.to_bytes(3, "little") + block
    return out
