"""The stream decoder against images that qemu-img made, and against streams that lie."""

from __future__ import annotations

import random
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.errors import CoriolisError, Corrupt, Unsupported
from coriolis.providers.vmware_vsphere.stream_vmdk import SECTOR, StreamVmdk

MIB = 1 << 20
GRAIN = 128
END = struct.pack("<QII", 0, 0, 0).ljust(SECTOR, b"\0")


def header(
    capacity: int = 1024, grain: int = GRAIN, overhead: int = 1, flags: int = 0x30001, algorithm: int = 1
) -> bytes:
    fields = (b"KDMV", 3, flags, capacity, grain, 0, 0, 512, 0, 0, overhead, 0, b"\n", b" ", b"\r", b"\n", algorithm)
    return struct.pack("<4sIIQQQQIQQQBccccH", *fields).ljust(SECTOR, b"\0") + bytes((overhead - 1) * SECTOR)


def grain(lba: int, data: bytes, size: int | None = None) -> bytes:
    packed = zlib.compress(data)
    body = struct.pack("<QI", lba, len(packed) if size is None else size) + packed
    return body + bytes(-len(body) % SECTOR)


def decode(stream: bytes, step: int = 4096, *, end_marker: bool = True) -> tuple[bytes, StreamVmdk]:
    decoder, found = StreamVmdk(), dict[int, bytes]()
    for at in range(0, len(stream), step):
        for offset, data in decoder.feed(stream[at : at + step]):
            found[offset] = data
    decoder.finish(end_marker=end_marker)
    disk = bytearray(decoder.size_bytes)
    for offset, data in found.items():
        disk[offset : offset + len(data)] = data
    return bytes(disk), decoder


def pieces() -> Iterator[bytes]:
    rng = random.Random(7)
    yield rng.randbytes(GRAIN * SECTOR)
    yield b"x" * (GRAIN * SECTOR)


@pytest.mark.parametrize("size", [MIB, 10 * MIB + 512, 64 * 1024])
def test_what_qemu_made_is_decoded_as_it_was(tmp_path: Path, size: int) -> None:
    raw, vmdk = tmp_path / "raw", tmp_path / "vmdk"
    rng = random.Random(size)
    disk = bytearray(size)
    for _ in range(12):
        at = rng.randrange(size)
        disk[at : at + 5000] = rng.randbytes(len(disk[at : at + 5000]))
    raw.write_bytes(disk)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(vmdk)]
    subprocess.run(command, check=True)
    for step in (512, 1000, 1 << 20):
        assert decode(vmdk.read_bytes(), step, end_marker=False)[0] == bytes(disk)


def test_tables_and_footers_are_passed() -> None:
    one, two = pieces()
    table = struct.pack("<QII", 4, 0, 1).ljust(SECTOR, b"\0") + bytes(4 * SECTOR)
    stream = header() + grain(0, one) + table + grain(256, two) + table + END + b"whatever follows"
    disk, decoder = decode(stream, 700)
    assert decoder.ended
    assert disk[: len(one)] == one
    assert disk[256 * SECTOR :][: len(two)] == two
    assert not any(disk[len(one) : 256 * SECTOR])


def test_a_cut_stream_is_noticed_wherever_it_was_cut() -> None:
    one, two = pieces()
    stream = header() + grain(0, one) + grain(256, two) + END
    decode(stream)
    for length in range(0, len(stream), 999):
        with pytest.raises(Corrupt):
            decode(stream[:length])


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"QFI\xfb" + bytes(1000), Corrupt),
        (header(flags=3), Unsupported),
        (header(algorithm=0), Unsupported),
        (header(grain=0), Corrupt),
        (header(grain=1 << 30), Corrupt),
        (header() + grain(1 << 40, b"x" * GRAIN * SECTOR), Corrupt),
        (header() + grain(1, b"x" * GRAIN * SECTOR), Corrupt),
        (header() + grain(128, b"x" * GRAIN * SECTOR) + grain(0, b"x" * GRAIN * SECTOR), Corrupt),
        (header() + grain(0, b"x" * 100), Corrupt),
        (header() + grain(0, b"x" * GRAIN * SECTOR * 1000), Corrupt),
        (header() + grain(0, b"", size=(1 << 31)), Corrupt),
        (header() + struct.pack("<QI", 0, 20) + b"no deflate stream at all".ljust(SECTOR - 12), Corrupt),
        (header() + struct.pack("<QII", 1 << 60, 0, 1).ljust(SECTOR, b"\0"), Corrupt),
    ],
)
def test_streams_that_lie_are_refused(stream: bytes, error: type[CoriolisError]) -> None:
    with pytest.raises(error):
        decode(stream + END)


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_no_bytes_do_more_harm_than_an_error(noise: bytes, step: int) -> None:
    try:
        decode(header() + noise, step)
    except (Corrupt, Unsupported):
        return
