"""The order of a conversion and its resumption; the appliance is played by qemu-io."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from coriolis.convert import overlaid as module
from coriolis.convert import saved
from coriolis.convert.convert import convert
from coriolis.convert.request import ConversionRequest, ConversionResult, ConversionSettings, NicIdentity
from coriolis.errors import Conflict, Corrupt, InvalidInput, Unavailable, Unsupported
from tests.unit.convert.memory_volume import Killed, MemoryVolume

SIZE = 1 << 20
OLD = b"\xaa" * SIZE
NEW = OLD[:4096] + b"\x11" * 4096 + OLD[8192:65536] + b"\x22" * 8192 + OLD[73728:]
REQUEST = ConversionRequest("linux", "kvm", "BIOS", "replica-1", (NicIdentity("00:50:56:9a:11:22"),))
TCG = ConversionSettings(accelerator="tcg")


class Worker:
    """Stands for ``run_worker``: changes each overlay in two places."""

    def __init__(self) -> None:
        self.requests: list[Mapping[str, Any]] = []
        self.before_answer: Callable[[], None] = lambda: None

    async def __call__(
        self, request: Mapping[str, Any], on_event: Callable[[str], None], *, run_dir: Path, timeout_s: float
    ) -> dict[str, Any]:
        self.requests.append(request)
        assert timeout_s == 900
        for disk in request["disks"]:
            command = [
                "qemu-io",
                "-f",
                "qcow2",
                "-c",
                "write -P 0x11 4k 4k",
                "-c",
                "write -P 0x22 64k 8k",
                disk,
            ]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
            assert await process.wait() == 0
        on_event("worked")
        self.before_answer()
        return {
            "system": {
                "os_type": "linux",
                "family": "debian",
                "distribution": "debian",
                "version": "12",
                "title": "Debian",
            },
            "facts": {
                "kernel_versions": ["6.1"],
                "modules": ["virtio_blk"],
                "pins": [["00:50:56:9a:11:22", "ens192"]],
                "way": "fast",
            },
            "times": {"launch": 1.0},
        }


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    played = Worker()
    monkeypatch.setattr(module, "run_worker", played)
    return played


async def run(
    work_dir: Path,
    volume: MemoryVolume,
    request: ConversionRequest = REQUEST,
    replica: MemoryVolume | None = None,
) -> ConversionResult:
    return await convert(request, [replica or MemoryVolume(OLD)], [volume], work_dir, lambda _: None, settings=TCG)


async def test_the_volume_gets_the_difference_and_the_replica_stays(worker: Worker, tmp_path: Path) -> None:
    replica, volume = MemoryVolume(OLD), MemoryVolume(OLD)
    result = await run(tmp_path / "w", volume, replica=replica)
    assert bytes(volume.data) == NEW
    assert bytes(replica.data) == OLD
    assert volume.flushed_writes == volume.writes == 2
    change = result.disks[0]
    assert (change.disk_index, change.extents, change.data_bytes, change.zero_bytes) == (0, 2, 12288, 0)
    assert result.summary.done.pins == (("00:50:56:9a:11:22", "ens192"),)
    assert "worked" in result.messages
    assert not result.reapplied
    assert not list((tmp_path / "w").glob("*.qcow2"))


async def test_disks_keep_their_order(worker: Worker, tmp_path: Path) -> None:
    volumes = [MemoryVolume(OLD), MemoryVolume(OLD + OLD)]
    readers = [MemoryVolume(OLD), MemoryVolume(OLD + OLD)]
    result = await convert(REQUEST, readers, volumes, tmp_path, lambda _: None, settings=TCG)
    assert [change.disk_index for change in result.disks] == [0, 1]
    assert [bytes(volume.data) for volume in volumes] == [NEW, NEW + OLD]
    names = [Path(disk).name for disk in worker.requests[0]["disks"]]
    assert names == ["overlay-0.qcow2", "overlay-1.qcow2"]


@pytest.mark.parametrize("writes", [0, 1])
async def test_killed_while_writing_it_is_written_again_not_converted_again(
    worker: Worker, tmp_path: Path, writes: int
) -> None:
    """The volume is the replica itself: converting over it again would be wrong."""
    volume = MemoryVolume(OLD, die_after_writes=writes)
    with pytest.raises(Killed):
        await run(tmp_path, volume, replica=volume)
    assert bytes(volume.data) != NEW
    volume.die_after_writes = None
    result = await run(tmp_path, volume, replica=volume)
    assert result.reapplied
    assert bytes(volume.data) == NEW
    assert len(worker.requests) == 1
    assert result.summary.system.title == "Debian"


async def test_killed_before_the_commit_it_is_converted_again(worker: Worker, tmp_path: Path) -> None:
    def die() -> None:
        raise Killed

    worker.before_answer = die
    volume = MemoryVolume(OLD)
    with pytest.raises(Killed):
        await run(tmp_path, volume)
    assert bytes(volume.data) == OLD
    (tmp_path / "disk-0.delta").write_bytes(b"torn")
    worker.before_answer = lambda: None
    result = await run(tmp_path, volume)
    assert not result.reapplied
    assert bytes(volume.data) == NEW
    assert len(worker.requests) == 2


async def test_a_new_replica_is_converted_anew(worker: Worker, tmp_path: Path) -> None:
    await run(tmp_path, MemoryVolume(OLD))
    later = ConversionRequest("linux", "kvm", "BIOS", "replica-2", REQUEST.nics)
    volume = MemoryVolume(OLD)
    assert not (await run(tmp_path, volume, later)).reapplied
    assert bytes(volume.data) == NEW
    assert len(worker.requests) == 2


async def test_another_request_for_a_half_written_volume_is_refused(worker: Worker, tmp_path: Path) -> None:
    volume = MemoryVolume(OLD, die_after_writes=1)
    with pytest.raises(Killed):
        await run(tmp_path, volume)
    with pytest.raises(Conflict, match="partly written"):
        await run(tmp_path, volume, ConversionRequest("linux", "kvm", "EFI", "replica-1", REQUEST.nics))
    assert len(worker.requests) == 1


async def test_a_damaged_delta_is_refused_once_writing_began(worker: Worker, tmp_path: Path) -> None:
    volume = MemoryVolume(OLD)
    await run(tmp_path, volume)
    path = tmp_path / "disk-0.delta"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Corrupt, match="copy the volume anew"):
        await run(tmp_path, volume)


async def test_a_failed_conversion_touches_nothing(worker: Worker, tmp_path: Path) -> None:
    def fail() -> None:
        raise Unsupported("dracut")

    worker.before_answer = fail
    volume = MemoryVolume(OLD)
    with pytest.raises(Unsupported, match="dracut"):
        await run(tmp_path, volume)
    assert volume.writes == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


async def test_the_readers_error_is_the_one_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replica = MemoryVolume(OLD)

    async def failing_worker(request: Mapping[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        replica.error = Unavailable("the origin is gone")
        command = ["qemu-io", "-f", "qcow2", "-c", "read 512k 4k", request["disks"][0]]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await process.wait()
        raise Corrupt("I/O error in the guest")

    monkeypatch.setattr(module, "run_worker", failing_worker)
    with pytest.raises(Unavailable, match="the origin is gone"):
        await run(tmp_path, MemoryVolume(OLD), replica=replica)


async def test_the_directory_of_a_killed_run_is_removed(worker: Worker, tmp_path: Path) -> None:
    left = tmp_path / "coriolis-convert-left"
    left.mkdir()
    work_dir = tmp_path / "w"
    work_dir.mkdir()
    (work_dir / "run-dir").write_text(str(left))
    await run(work_dir, MemoryVolume(OLD))
    assert not left.exists()
    assert not (work_dir / "run-dir").exists()


async def test_what_a_run_killed_after_its_commit_left_is_removed_too(worker: Worker, tmp_path: Path) -> None:
    work_dir, left = tmp_path / "w", tmp_path / "coriolis-convert-left"
    await run(work_dir, MemoryVolume(OLD))
    left.mkdir()
    (work_dir / "run-dir").write_text(str(left))
    (work_dir / "overlay-0.qcow2").touch()
    assert (await run(work_dir, MemoryVolume(OLD))).reapplied
    assert not left.exists()
    assert not list(work_dir.glob("overlay*")) + list(work_dir.glob("run-dir"))


async def test_two_at_once_in_one_directory_are_refused(worker: Worker, tmp_path: Path) -> None:
    with saved.locked(tmp_path), pytest.raises(Conflict, match="another conversion is running"):
        await run(tmp_path, MemoryVolume(OLD))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ConversionRequest("solaris", "kvm", "BIOS", "r"), Unsupported),
        (ConversionRequest("linux", "xen", "BIOS", "r"), InvalidInput),
        (ConversionRequest("linux", "kvm", "BIOS", ""), InvalidInput),
        (ConversionRequest("linux", "kvm", "BIOS", "r", (NicIdentity("00:50:56:9A:11:22"),)), InvalidInput),
        (
            ConversionRequest("linux", "kvm", "BIOS", "r", (NicIdentity("00:50:56:9a:11:22"),) * 33),
            InvalidInput,
        ),
    ],
)
async def test_what_is_refused_at_once(
    worker: Worker, tmp_path: Path, request_: ConversionRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await run(tmp_path, MemoryVolume(OLD), request_)
    assert worker.requests == []


async def test_a_volume_smaller_than_the_disk_is_refused(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot take a disk"):
        await run(tmp_path, MemoryVolume(OLD[:-1]))
