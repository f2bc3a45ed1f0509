"""Overlays made and read by the real qemu-img, over the real export."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from coriolis.convert import delta, overlay
from coriolis.convert.delta import DeltaHeader
from coriolis.convert.nbd_export import export
from coriolis.convert.overlay import OverlayExtent
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded, Unavailable
from tests.unit.convert.memory_volume import MemoryVolume

SIZE = (8 << 20) + 512 * 3  # its last cluster is cut
CONTENT = random.Random(3).randbytes(SIZE)


def entry(start: int, length: int, depth: int, zero: bool, offset: int | None) -> overlay._MapEntry:
    return overlay._MapEntry(start, length, depth, zero, not zero, offset)


def test_only_depth_zero_joined_and_cut() -> None:
    entries = [
        entry(0, 4096, 1, False, 0),
        entry(4096, 4096, 0, False, 50_000),
        entry(8192, 4096, 0, False, 54_096),
        entry(12_288, 4096, 0, False, 90_000),
        entry(16_384, 4096, 0, True, None),
        entry(20_480, 4096, 0, True, None),
    ]
    assert overlay.overlay_extents(entries, 24_000) == [
        OverlayExtent(4096, 8192, 50_000),
        OverlayExtent(12_288, 4096, 90_000),
        OverlayExtent(16_384, 24_000 - 16_384, None),
    ]


def test_bad_maps_are_refused() -> None:
    with pytest.raises(Corrupt, match="without the place"):
        overlay.overlay_extents([entry(0, 512, 0, False, None)], 1024)
    with pytest.raises(Corrupt, match="backwards"):
        overlay.overlay_extents([entry(512, 512, 0, True, None), entry(0, 512, 0, True, None)], 1024)
    with pytest.raises(QuotaExceeded, match="conversion changed"):
        overlay.overlay_extents([entry(0, (2 << 30) + 512, 0, False, 0)], 1 << 40)


async def qemu_io(path: Path, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    process = await asyncio.create_subprocess_exec(
        "qemu-io", "-f", "qcow2", *arguments, str(path), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_the_delta_makes_the_replica_equal_to_the_overlay(tmp_path: Path) -> None:
    replica, path = MemoryVolume(CONTENT), tmp_path / "overlay.qcow2"
    async with export(replica, tmp_path / "s"):
        await overlay.create_overlay(path, tmp_path / "s", SIZE)
        assert await overlay.changed_extents(path, SIZE) == []
        await qemu_io(
            path,
            "write -P 0x11 4096 100k",
            "write -P 0x22 1000000 512",
            "write -z 3M 128k",
            f"write -P 0x33 {SIZE - 512} 512",
        )
        extents = await overlay.changed_extents(path, SIZE)
        out = await overlay.qemu_img("convert", "-f", "qcow2", "-O", "raw", str(path), str(tmp_path / "want"))
        assert out == b""
    header = DeltaHeader(0, SIZE, "r", overlay.delta_extents(extents))
    kept = await asyncio.to_thread(delta.save, tmp_path / "d", header, overlay.payload(path, extents))
    assert header.zero_bytes == 128 << 10
    assert header.data_bytes < 300 << 10, "4 KiB clusters keep the delta small"
    volume = MemoryVolume(CONTENT)
    await delta.apply(kept, volume)
    assert bytes(volume.data) == (tmp_path / "want").read_bytes()
    assert bytes(volume.data) != CONTENT
    assert bytes(replica.data) == CONTENT


async def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="multiple of 512"):
        await overlay.create_overlay(tmp_path / "o", tmp_path / "s", 1000)


async def test_a_missing_export_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="qemu-img create failed"):
        await overlay.create_overlay(tmp_path / "o", tmp_path / "s", 1 << 20)


def test_cluster_size_grows_with_the_disk() -> None:
    assert overlay.cluster_bytes(1 << 30) == 4096
    assert overlay.cluster_bytes(8 << 40) == 65536
