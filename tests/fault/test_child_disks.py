"""Whole passes between real task processes: extreme sizes, no room, a sink that lost its journal (A2, D3, D8)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coriolis.agent.lanes.hosts import WORTH_A_PROCESS_BYTES
from coriolis.model.task import Role
from coriolis.rpc.tls import TlsFiles
from tests.fault.children import MIB, Children, digest, kill, seeded, write_origin
from tests.unit.agent.pair import certificates

RUNS = int(os.environ.get("CORIOLIS_FAULT_RUNS", "3"))
TIB = 1 << 40
RESENT_LIMIT = 64 * MIB

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    return certificates(tmp_path_factory.mktemp("pki"), "source", "sink")


def data_cells_equal(origin: Path, volume: Path, size: int, data: list[tuple[int, int]]) -> None:
    """Equal where there is data, of the same size, and nothing else allocated: too large to be read whole."""
    assert volume.stat().st_size == origin.stat().st_size == size
    allocated = 0
    with origin.open("rb") as one, volume.open("rb") as other:
        for offset, length in data:
            one.seek(offset)
            other.seek(offset)
            assert one.read(length) == other.read(length)
            allocated += length
    assert volume.stat().st_blocks * 512 <= allocated + len(data) * 128 * 1024 + MIB


@pytest.mark.parametrize("transport", ["grpc", "direct"])
@pytest.mark.parametrize("size", [511, MIB - 1, MIB, MIB + 1])
async def test_small_disks(tmp_path: Path, tls: dict[str, TlsFiles], size: int, transport: str) -> None:
    origin = write_origin(tmp_path / "origin", size, [(0, size)], seed=size)
    children = Children(tmp_path, tls, transport=transport)
    async with children.running():
        await children.attempt()
        await children.until_sealed()
    assert digest(children.volume, size) == digest(origin, size)


async def test_two_tebibytes_and_a_sector(tmp_path: Path, tls: dict[str, TlsFiles]) -> None:
    size = 2 * TIB + 512
    data = [(0, MIB), (TIB - 7, 14), (size - 512, 512)]
    origin = write_origin(tmp_path / "origin", size, data, seed=1)
    children = Children(tmp_path, tls)
    async with children.running():
        await children.attempt()
        await children.until_sealed(120)
    data_cells_equal(origin, children.volume, size, data)


async def test_a_tebibyte_of_zeros_in_half_a_minute_and_ten_mebibytes(tmp_path: Path, tls: dict[str, TlsFiles]) -> None:
    size = TIB
    origin = write_origin(tmp_path / "origin", size, [], seed=1)
    children = Children(tmp_path, tls)
    async with children.running():
        began = time.monotonic()
        await children.attempt()
        await children.until_sealed(120)
        elapsed = time.monotonic() - began
    assert children.progress.sent_bytes <= 10 * MIB
    assert elapsed <= 30
    data_cells_equal(origin, children.volume, size, [])
    print(f"{elapsed:.1f} s, {children.progress.sent_bytes} bytes")


# -- no room -------------------------------------------------------------------------------------------------------


def mount(options: str, where: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=True)


@pytest.fixture
def small_storage(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    if os.geteuid():
        pytest.skip("needs root to mount a small file system")
    where = tmp_path / "small"
    where.mkdir()
    mount("size=64m", where)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.lab
@pytest.mark.parametrize("size", [100 * MIB, WORTH_A_PROCESS_BYTES])
@pytest.mark.parametrize("transport", ["grpc", "direct"])
async def test_a_full_file_system_is_told_and_the_rest_follows_when_there_is_room(
    tmp_path: Path, tls: dict[str, TlsFiles], small_storage: Path, size: int, transport: str
) -> None:
    """By threads and by lane processes."""
    origin = write_origin(tmp_path / "origin", size, [(0, 100 * MIB)], seed=1)
    children = Children(tmp_path, tls, transport=transport)
    children.destination.symlink_to(small_storage)
    async with children.running():
        first = await children.attempt()
        async with asyncio.timeout(30):
            state, message = await first.ended[Role.SINK]
        assert state == "FAILED"
        assert "space" in message
        await asyncio.to_thread(mount, "remount,size=400m", small_storage)
        before = children.progress.sent_bytes
        await children.attempt()
        await children.until_sealed()
        assert children.progress.sent_bytes <= 100 * MIB - min(before, 64 * MIB) + RESENT_LIMIT
    assert digest(children.volume, size) == digest(origin, size)


# -- the sink's journal is gone ------------------------------------------------------------------------------------


async def test_a_sink_without_its_journal_compares(tmp_path: Path, tls: dict[str, TlsFiles]) -> None:
    """Ten times by ``make fault``."""
    size, data = 120 * MIB, 90 * MIB
    origin = write_origin(tmp_path / "origin", size, [(5, data)], seed=1)
    for number in range(max(1, RUNS // 10)):
        rng = seeded("journal", number)
        children = Children(tmp_path / str(number), tls, transport=rng.choice(["grpc", "direct"]), rate=80.0 * MIB)
        children.folder.mkdir()
        children.origin.symlink_to(origin.parent)
        async with children.running():
            first = await children.attempt()
            while children.progress.done_bytes < rng.uniform(0.4, 0.9) * size:
                assert not any(ended.done() for ended in first.ended.values())
                await asyncio.sleep(0.02)
            before = children.progress.done_bytes
            kill(first.pids[Role.SINK])
            await first.ended[Role.SINK]
            children.sink_journal.unlink()
            # what no journal knows of and no digest fits
            with children.volume.open("r+b") as volume:
                volume.seek(size - 3 * MIB)
                volume.write(b"left over")
            await children.attempt()
            await children.until_sealed()
            assert children.progress.sent_bytes <= size - before + RESENT_LIMIT
        assert digest(children.volume, size) == digest(origin, size)
