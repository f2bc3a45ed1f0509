"""What NTFS says of itself before it is mounted; boot sectors and records made by hand."""

from __future__ import annotations

import struct

import pytest

from coriolis.convert.windows.volume import DIRTY, is_bitlocker, volume_flags
from coriolis.errors import Corrupt

CLUSTER, TABLE_CLUSTER = 4096, 4


def boot_sector(record_clusters: int = -10, name: bytes = b"NTFS    ") -> bytearray:
    boot = bytearray(512)
    boot[3:11] = name
    struct.pack_into("<HB", boot, 11, 512, 8)
    struct.pack_into("<Q", boot, 48, TABLE_CLUSTER)
    struct.pack_into("<b", boot, 64, record_clusters)
    return boot


def volume(flags: int, record_bytes: int = 1024, boot: bytes | None = None) -> bytearray:
    """Record 3 has a name attribute, then the volume's flags; the last two bytes of each 512 are protected."""
    record = bytearray(record_bytes)
    blocks = record_bytes // 512
    struct.pack_into("<4sHH", record, 0, b"FILE", 48, blocks + 1)
    at = (48 + 2 * (blocks + 1) + 7) & ~7
    struct.pack_into("<H", record, 20, at)
    struct.pack_into("<II", record, at, 0x60, 32)
    struct.pack_into("<IIBBHHHIH", record, at + 32, 0x70, 40, 0, 0, 0, 0, 0, 12, 24)
    struct.pack_into("<QBBH", record, at + 32 + 24, 0, 3, 1, flags)
    struct.pack_into("<I", record, at + 72, 0xFFFFFFFF)
    struct.pack_into("<H", record, 48, 0x1234)
    for block in range(1, blocks + 1):
        end = block * 512
        record[48 + 2 * block : 50 + 2 * block] = record[end - 2 : end]
        record[end - 2 : end] = b"\x34\x12"
    image = bytearray(1 << 20)
    image[:512] = boot if boot is not None else boot_sector()
    start = TABLE_CLUSTER * CLUSTER + 3 * record_bytes
    image[start : start + record_bytes] = record
    return image


def flags_of(image: bytes) -> int:
    return volume_flags(lambda at, length: bytes(image[at : at + length]))


@pytest.mark.parametrize("flags", [0, DIRTY, 0x8000, 0x8001])
def test_flags(flags: int) -> None:
    assert flags_of(volume(flags)) == flags


def test_records_of_a_whole_cluster() -> None:
    assert flags_of(volume(DIRTY, 4096, boot_sector(record_clusters=1))) == DIRTY


def test_flags_that_end_a_protected_block() -> None:
    """The bytes there are in the update sequence, not in place."""
    image = volume(DIRTY)
    start = TABLE_CLUSTER * CLUSTER + 3 * 1024
    record = image[start : start + 1024]
    # move the attribute so that its flags are the last two bytes of the first 512
    struct.pack_into("<II", record, 56, 0x60, 510 - 24 - 10 - 56)
    at = 510 - 24 - 10
    struct.pack_into("<IIBBHHHIH", record, at, 0x70, 40, 0, 0, 0, 0, 0, 12, 24)
    record[50:52] = struct.pack("<H", DIRTY)
    image[start : start + 1024] = record
    assert flags_of(image) == DIRTY


@pytest.mark.parametrize(
    "image",
    [
        b"",
        bytes(4096),
        bytes(volume(0, boot=boot_sector(name=b"-FVE-FS-"))),
        bytes(volume(0, boot=boot_sector(record_clusters=127))),
        bytes(volume(0, boot=boot_sector(record_clusters=-128))),
        bytes(volume(0)[: TABLE_CLUSTER * CLUSTER]),
        bytes(volume(0)).replace(b"FILE", b"BAAD"),
        bytes(volume(0)).replace(b"\x34\x12", b"\x35\x12", 2),
        bytes(volume(0)).replace(struct.pack("<II", 0x70, 40), struct.pack("<II", 0x70, 0)),
        bytes(volume(0)).replace(struct.pack("<II", 0x60, 32), struct.pack("<II", 0x60, 0xFFFFFF)),
    ],
)
def test_what_is_no_ntfs_is_corrupt(image: bytes) -> None:
    with pytest.raises(Corrupt):
        flags_of(image)


def test_bitlocker() -> None:
    assert is_bitlocker(bytes(boot_sector(name=b"-FVE-FS-")))
    assert not is_bitlocker(bytes(boot_sector()))
    assert not is_bitlocker(b"")
