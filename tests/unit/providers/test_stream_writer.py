"""Stream-optimised VMDKs of ours, read back by qemu-img and by our own decoder."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import InvalidInput, QuotaExceeded
from coriolis.providers.vmware_vsphere.disk_stream import spans, vmdk_pieces
from coriolis.providers.vmware_vsphere.stream_vmdk import StreamVmdk
from coriolis.providers.vmware_vsphere.stream_writer import (
    GRAIN_BYTES,
    MAX_SIZE_BYTES,
    SECTOR,
    StreamWriter,
    capacity_of,
)

MIB = 1 << 20
TABLE_SPAN = 512 * GRAIN_BYTES


def sparse_disk(path: Path, size: int, parts: Iterable[tuple[int, bytes]]) -> bytearray:
    truth = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in parts:
            kept = data[: max(0, size - offset)]
            os.pwrite(file.fileno(), kept, offset)
            truth[offset : offset + len(kept)] = kept
    return truth


def written(raw: Path) -> list[bytes]:
    descriptor = os.open(raw, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(2) as pool:
            return list(vmdk_pieces(descriptor, os.fstat(descriptor).st_size, pool))
    finally:
        os.close(descriptor)


def decoded(pieces: Iterable[bytes]) -> bytes:
    decoder, disk = StreamVmdk(), bytearray()
    for piece in pieces:
        for offset, data in decoder.feed(piece):
            disk.extend(bytes(offset - len(disk)) + data)
    decoder.finish()
    return bytes(disk.ljust(decoder.size_bytes, b"\0"))


@pytest.mark.parametrize("size", [SECTOR * 2, MIB, 3 * TABLE_SPAN + 5 * 1024, 40 * MIB + 64 * 1024])
def test_qemu_img_reads_the_same_bytes(tmp_path: Path, size: int) -> None:
    chance = random.Random(size)
    parts = [(0, chance.randbytes(3000)), (size // 2, chance.randbytes(200_000)), (size - 512, chance.randbytes(512))]
    raw, vmdk = tmp_path / "d.raw", tmp_path / "d.vmdk"
    sparse_disk(raw, size, parts)
    vmdk.write_bytes(b"".join(written(raw)))
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "vmdk", str(raw), str(vmdk)]
    subprocess.run(compare, check=True, timeout=60, stdout=subprocess.PIPE)
    assert vmdk.stat().st_size < 600_000, "holes must not be written"


@given(
    size=st.integers(0, 4 * MIB),
    parts=st.lists(st.tuples(st.integers(0, 4 * MIB), st.binary(min_size=1, max_size=300)), max_size=6),
)
def test_any_size_and_pattern(tmp_path_factory: pytest.TempPathFactory, size: int, parts: list) -> None:
    raw = tmp_path_factory.mktemp("disk") / "d.raw"
    truth = sparse_disk(raw, size, parts)
    found = decoded(written(raw))
    assert len(found) == capacity_of(size)
    assert found == truth.ljust(len(found), b"\0")


def test_an_empty_disk_of_the_largest_size_is_streamed_at_once(tmp_path: Path) -> None:
    raw = tmp_path / "d.raw"
    with raw.open("wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"x", (1 << 40) - 1)
    pieces, decoder = written(raw), StreamVmdk()
    assert [grain.offset for piece in pieces for grain in decoder.feed(piece)] == [(1 << 40) - GRAIN_BYTES]
    decoder.finish()
    assert sum(map(len, pieces)) < MIB


def test_the_tables_and_the_footer_point_at_the_grains() -> None:
    """Our decoder and NFC ignore the tables; a program that opens the file as a disk needs them."""
    writer = StreamWriter(2 * TABLE_SPAN)
    where = TABLE_SPAN + 3 * GRAIN_BYTES
    packed = zlib.compress(b"g" * GRAIN_BYTES, 1)
    file = writer.begin() + writer.grain(where, packed) + b"".join(writer.finish())
    assert file[-SECTOR:] == bytes(SECTOR), "the end marker"
    footer = file[-2 * SECTOR : -SECTOR]
    assert footer[:4] == b"KDMV"
    directory = struct.unpack_from("<Q", footer, 56)[0] * SECTOR
    first, second = struct.unpack_from("<2I", file, directory)
    assert first == 0
    table = struct.unpack_from("<512I", file, second * SECTOR)
    assert [entry for entry in range(512) if table[entry]] == [3]
    at = table[3] * SECTOR
    assert struct.unpack_from("<QI", file, at) == (where // SECTOR, len(packed))
    assert file[at + 12 : at + 12 + len(packed)] == packed


def test_refusals() -> None:
    for capacity in (0, 100, -512):
        with pytest.raises(InvalidInput):
            StreamWriter(capacity)
    writer = StreamWriter(4 * GRAIN_BYTES)
    writer.grain(GRAIN_BYTES, b"")
    for offset in (0, GRAIN_BYTES, 3 * GRAIN_BYTES + 1, 4 * GRAIN_BYTES):
        with pytest.raises(InvalidInput):
            writer.grain(offset, b"")
    with pytest.raises(InvalidInput):
        capacity_of(-1)
    assert capacity_of(MAX_SIZE_BYTES) == MAX_SIZE_BYTES
    with pytest.raises(QuotaExceeded, match="62 TiB"):
        capacity_of(MAX_SIZE_BYTES + 1)


def test_more_than_32_bits_of_sectors_are_refused() -> None:
    writer = StreamWriter(4 * GRAIN_BYTES)
    writer.begin()
    writer._position = SECTOR << 32
    with pytest.raises(QuotaExceeded, match="2 TiB"):
        writer.grain(0, b"")


def test_spans_are_whole_grains_and_never_overlap(tmp_path: Path) -> None:
    raw = tmp_path / "d.raw"
    size = 5 * MIB + 700
    sparse_disk(raw, size, [(100, b"a"), (GRAIN_BYTES + 4096, b"b"), (2 * MIB, bytes(2 * MIB)), (size - 1, b"c")])
    with raw.open("rb") as file:
        found = list(spans(file.fileno(), size))
    assert all(offset % GRAIN_BYTES == 0 for offset, _ in found)
    assert all(a + length <= b for (a, length), (b, _) in pairwise(found))
    assert sum(found[-1]) == size
