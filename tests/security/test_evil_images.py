"""G1, G2: hostile images are refused before any process starts; raw disks are carried, whatever they look like."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from coriolis.errors import CoriolisError, Corrupt, HostileImage, Unsupported
from coriolis.model.machine import MachineSpec
from coriolis.providers.image.provider import ImageProvider
from coriolis.providers.image_check import check_image
from tests.security import evil_images

CANARY = "canary-9f2c: must never appear"
REFUSALS = (HostileImage, Unsupported, Corrupt)
MAX_SECONDS = 2.0
MAX_RSS_KIB = 1 << 20


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every way to start a process, recorded and refused."""
    started: list[object] = []

    def refuse(*args: object, **_: object) -> object:
        started.append(args)
        raise AssertionError(f"a process was started: {args!r}")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    monkeypatch.setattr(asyncio, "create_subprocess_shell", refuse)
    for name in ("Popen", "run", "check_output"):
        monkeypatch.setattr(subprocess, name, refuse)
    for name in ("system", "posix_spawn", "fork", "execve"):
        monkeypatch.setattr(os, name, refuse)
    return started


def _directory(tmp_path: Path, evil: evil_images.Evil) -> Path:
    (tmp_path / "disk.img").write_bytes(evil.build())
    (tmp_path / "vm.toml").write_text(
        f'name = "vm"\nnum_cpu = 1\nmemory_mb = 64\n[[disks]]\nfile = "disk.img"\nformat = "{evil.stated}"\n'
    )
    return tmp_path


def _canary(tmp_path: Path) -> str:
    path = tmp_path / "canary"
    path.write_text(CANARY)
    return str(path)


def _memory_kib(name: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


REFERENCES = evil_images.references("/etc/hostname")


@pytest.mark.parametrize("evil", REFERENCES + evil_images.sizes(), ids=lambda e: e.name)
async def test_refused_before_any_process(evil: evil_images.Evil, tmp_path: Path, no_processes: list[object]) -> None:
    directory = _directory(tmp_path, evil)
    before, memory_before = time.monotonic(), _memory_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: other tests of this process had theirs
    async with ImageProvider().connect({"path": str(directory)}) as connection:
        assert await connection.inventory.list_instances(_page()) == []
        with pytest.raises(REFUSALS) as caught:
            await connection.inventory.get_instance("vm")
        assert len(caught.value.message) > 20
        assert connection.snapshots is not None
        with pytest.raises(REFUSALS):
            await connection.snapshots.create_snapshot("vm", "coriolis-s", None)
    assert time.monotonic() - before < MAX_SECONDS
    assert _memory_kib("VmHWM") - memory_before < MAX_RSS_KIB
    assert no_processes == []


def _page():  # type: ignore[no-untyped-def]
    from coriolis.providers.base import Page

    return Page()


@pytest.mark.parametrize("evil", evil_images.hidden_in_raw(), ids=lambda e: e.name)
async def test_raw_is_carried_as_raw(evil: evil_images.Evil, tmp_path: Path, no_processes: list[object]) -> None:
    content = evil.build()
    directory = _directory(tmp_path, evil)
    async with ImageProvider().connect({"path": str(directory)}) as connection:
        spec: MachineSpec = await connection.inventory.get_instance("vm")
        assert spec.devices.disks[0].size_bytes == len(content)
        assert connection.snapshots is not None
        snapshot = await connection.snapshots.create_snapshot("vm", "coriolis-s", None)
        async with connection.snapshots.open_reader(snapshot, "disk-0") as reader:
            assert await reader.read_at(0, reader.size) == content
    assert no_processes == []


def test_well_formed_ones_pass(tmp_path: Path) -> None:
    """The builders differ from an accepted image only in what they try."""
    for stated, data, size in (
        ("qcow2", evil_images.qcow2(), 1 << 20),
        ("qcow2", evil_images.qcow2(version=2), 1 << 20),
        ("vmdk", evil_images.vmdk(), 1 << 20),
        ("vhd", evil_images.vhd(), 2 << 20),
        ("vhdx", evil_images.vhdx(), 4 << 20),
    ):
        path = tmp_path / "image"
        path.write_bytes(data)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert check_image(descriptor, stated).virtual_size == size
            with pytest.raises(HostileImage, match="were stated"):
                check_image(descriptor, stated, stated_size=size + 512)
            with pytest.raises(HostileImage, match="are accepted"):
                check_image(descriptor, stated, max_size=size - 1)
        finally:
            os.close(descriptor)


def test_mutated_headers_never_crash(tmp_path: Path) -> None:
    """G3, a small part of it: only our errors come out of damaged headers, quickly."""
    import random

    seeds = {"qcow2": evil_images.qcow2, "vmdk": evil_images.vmdk, "vhd": evil_images.vhd}
    path = tmp_path / "image"
    for stated, build in seeds.items():
        original, chance = build(), random.Random(7)
        path.write_bytes(original)
        descriptor = os.open(path, os.O_RDWR)
        try:
            for _ in range(1500):
                at = chance.randrange(0, 1200)
                os.pwrite(descriptor, bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9))), at)
                try:
                    check_image(descriptor, stated)
                except CoriolisError:
                    os.pwrite(descriptor, original[:2048], 0)
        finally:
            os.close(descriptor)
