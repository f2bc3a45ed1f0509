from __future__ import annotations

import shutil
import subprocess

import pytest

from coriolis.convert.linux import cpio, initramfs
from coriolis.convert.linux.initramfs import Segment
from coriolis.errors import Corrupt, Unsupported
from tests.unit.convert.directory_guest import main_archive


def archive(data: bytes = b"x" * 1000) -> bytes:
    writer = cpio.Writer()
    writer.add_file("early", data)
    return writer.finish()


def segments(blob: bytes) -> list[Segment]:
    return initramfs.segments(lambda offset, length: blob[offset : offset + length], len(blob))


def test_early_microcode_padding_and_main_archive() -> None:
    early = archive()
    blob = early + bytes(8192) + main_archive()
    assert segments(blob) == [Segment(0, "cpio"), Segment(len(early) + 8192, "zstd")]


def test_an_uncompressed_initramfs_is_one_segment() -> None:
    assert segments(archive()) == [Segment(0, "cpio")]


@pytest.mark.parametrize(
    ("magic", "kind"), [(b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x02\x21\x4c\x18", "lz4")]
)
def test_compressions_are_known_by_their_magic(magic: bytes, kind: str) -> None:
    assert segments(magic + b"1" * 500) == [Segment(0, kind)]


def test_an_unknown_format_is_left_alone() -> None:
    with pytest.raises(Unsupported, match="unknown initramfs format at byte 0"):
        segments(b"MZ" + b"x" * 500)


def test_a_cut_early_archive_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        segments(archive(b"x" * 10_000)[:5000])


@pytest.mark.parametrize("size", [111, 112, 113, 114])
@pytest.mark.parametrize("use_gzip", [True, False])
def test_what_follows_begins_at_a_multiple_of_four(size: int, use_gzip: bool) -> None:
    added = initramfs.appendix(size, "zstd", archive(), use_gzip=use_gzip)
    padding = len(added) - len(added.lstrip(b"\0"))
    assert (size + padding) % 4 == 0
    assert padding < 4
    assert initramfs.archive_in(added) == archive()


@pytest.mark.parametrize("length", [0, 1, 14, 15, 16, 269, 270, 271, 9 << 20])
def test_lz4_frames_of_literals(length: int) -> None:
    data = bytes(range(1, 252)) * (length // 251 + 1)
    data = data[:length]
    added = initramfs.appendix(1001, "lz4", data, use_gzip=True)
    assert added.startswith(b"\x02\x21\x4c\x18"), "no padding: old kernels take it for a chunk length"
    assert initramfs.archive_in(added) == data


@pytest.mark.skipif(shutil.which("lz4") is None, reason="needs lz4")
def test_the_real_lz4_unpacks_the_frame() -> None:
    data = archive()
    done = subprocess.run(["lz4", "-dc"], input=initramfs.lz4_legacy_frame(data), capture_output=True, check=True)
    assert done.stdout == data


def test_a_damaged_appendix_is_noticed() -> None:
    added = bytearray(initramfs.appendix(112, "zstd", archive(), use_gzip=True))
    added[len(added) // 2] ^= 0xFF
    with pytest.raises(Corrupt):
        list(cpio.members(initramfs.archive_in(bytes(added))))


def test_gzip_only_when_the_kernel_promises_it() -> None:
    assert initramfs.kernel_unpacks_gzip("CONFIG_RD_GZIP=y\n")
    assert not initramfs.kernel_unpacks_gzip("# CONFIG_RD_GZIP is not set\n")
    assert not initramfs.kernel_unpacks_gzip("")
