"""Servers and space: nothing outlives its reader, a full disk is told with sizes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coriolis.errors import Conflict, CoriolisError, QuotaExceeded
from coriolis.ids import new_id
from coriolis.model.resource import Tag, VolumeRequest
from coriolis.providers.block.file_disk import FileDisk, examine, file_reader
from coriolis.providers.block.qemu_nbd import remove_dead_folders
from coriolis.providers.image.provider import ImageProvider
from tests.contract.case import SIZE, make_image, sample_disk

_HOLD = """
import asyncio, sys
from coriolis.providers.block.file_disk import FileDisk, file_reader
async def main():
    async with file_reader(FileDisk(sys.argv[1], "qcow2")) as reader:
        await reader.read_at(0, 512)
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def _servers(path: Path) -> list[int]:
    """Processes that hold ``path`` open and are qemu-nbd."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() != "qemu-nbd":
                continue
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if str(path) in held:
            found.append(pid)
    return found


def test_folders_of_the_dead_are_removed(tmp_path: Path) -> None:
    dead, alive = tmp_path / "coriolis-nbd-dead", tmp_path / "coriolis-nbd-alive"
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as served:
        for folder, end in ((dead, gone), (alive, served)):
            folder.mkdir()
            end.bind(str(folder / "nbd.sock"))
        served.listen()
        gone.close()
        remove_dead_folders(str(tmp_path))
        assert dead.exists()  # too young
        remove_dead_folders(str(tmp_path), min_age_s=0)
        assert not dead.exists()
        assert alive.exists()


def test_killed_reader_leaves_no_server(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    make_image(path, sample_disk(1), "qcow2")
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    assert len(_servers(path)) == 1
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    deadline = time.monotonic() + 5
    while _servers(path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _servers(path) == []


async def test_server_ends_with_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    make_image(path, sample_disk(1), "qcow2")
    async with file_reader(FileDisk(str(path), "qcow2")) as reader:
        assert len(_servers(path)) == 1
        os.kill(_servers(path)[0], signal.SIGKILL)
        with pytest.raises(CoriolisError):
            await reader.read_at(0, SIZE)
    assert _servers(path) == []


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
async def test_change_during_the_pass_is_seen(tmp_path: Path, fmt: str) -> None:
    path = tmp_path / "a.img"
    make_image(path, sample_disk(1), fmt)
    disk = FileDisk(str(path), fmt)
    identity = examine(disk).identity
    with pytest.raises(Conflict, match="new snapshot"):  # noqa: PT012 - leaving the reader counts too
        async with file_reader(disk, identity) as reader:
            await reader.read_at(0, 512)
            os.truncate(path, path.stat().st_size)
            os.utime(path)
            await reader.read_at(0, 512)


async def test_links_do_not_leave_the_directory(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").write_bytes(b"canary" * 100)
    os.symlink(tmp_path / "secret", tmp_path / "store" / "d.img")
    os.symlink(tmp_path, tmp_path / "store" / "sub")
    async with ImageProvider().connect({"path": str(tmp_path / "store")}) as connection:
        for file in ("d.img", "sub/secret", "../secret", str(tmp_path / "secret")):
            (tmp_path / "store" / "vm.toml").write_text(
                f'name = "vm"\nnum_cpu = 1\nmemory_mb = 1\n[[disks]]\nfile = "{file}"\nformat = "raw"\n'
            )
            with pytest.raises(CoriolisError):
                await connection.inventory.get_instance("vm")


@pytest.fixture
def small_storage(tmp_path: Path) -> Iterator[Path]:
    """A file system with 32 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.lab
async def test_full_storage(small_storage: Path) -> None:
    """D3: refused up front when it cannot fit; when it fills up during writing, the reason comes at once."""
    job = new_id()
    async with ImageProvider().connect({"path": str(small_storage)}) as connection:
        assert connection.volumes is not None
        request = VolumeRequest(f"coriolis-{job}-0", 64 << 20, Tag(job, "disk-0"))
        with pytest.raises(QuotaExceeded, match="83886080 are needed"):
            await connection.volumes.create_volume(request)
        sparse = VolumeRequest(request.name, request.size_bytes, request.tag, "", {"allow_overcommit": True})
        volume = await connection.volumes.create_volume(sparse)
        async with connection.volumes.open_writer(volume.id) as writer:
            with pytest.raises(QuotaExceeded, match="bytes left"):  # noqa: PT012 - one of many writes
                for at in range(0, 64 << 20, 1 << 20):
                    await writer.write_at(at, os.urandom(1 << 20))
            await writer.write_zeroes(0, 64 << 20)
            await writer.write_at(0, b"space again")
            await writer.flush()
            assert await writer.read_at(0, 11) == b"space again"


async def test_event_loop_stays_free(tmp_path: Path) -> None:
    """No call blocks the loop: a ticker goes on while much is read."""
    path = tmp_path / "a.img"
    make_image(path, sample_disk(1, 64 << 20), "qcow2")
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticker = asyncio.create_task(tick())
    async with file_reader(FileDisk(str(path), "qcow2")) as reader:
        await asyncio.gather(*(reader.read_at(at, 4 << 20) for at in range(0, 64 << 20, 4 << 20)))
    ticker.cancel()
    assert max(gaps) < 0.5
