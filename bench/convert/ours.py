"""Our conversion over a raw replica and a raw volume: the product's own call; what both are asked is counted."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal

from bench.convert.rows import Sample
from coriolis.convert.appliance import PROBE_TIMEOUT_S, Accelerator, choose_accelerator
from coriolis.convert.convert import convert as convert_disks
from coriolis.convert.request import ConversionRequest, ConversionResult, ConversionSettings, NicIdentity
from coriolis.convert.worker_process import run_worker
from tests.lab.boot import DEFAULT_MAC
from tests.lab.file_volume import FileVolume

MEMORY_MB = ConversionSettings().memory_mb


class CountedVolume(FileVolume):
    """Bytes that were asked of it and bytes of data that were written; ranges of zeroes are not counted."""

    read = written = 0

    async def read_at(self, offset: int, length: int) -> bytes:
        self.read += length
        return await super().read_at(offset, length)

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        self.written += len(data)
        await super().write_at(offset, data)

    async def write_zeroes(self, offset: int, length: int) -> None:
        self.written -= length  # the parent writes them as data
        await super().write_zeroes(offset, length)


def warm_up(state_dir: Path) -> tuple[Accelerator, float]:
    """The accelerator that the product finds, and the seconds of a first appliance with it.

    libguestfs builds its appliance at the first start on a machine: nobody's run shall pay for that.
    Raises CoriolisError when no appliance starts.
    """
    run_dir = state_dir / "warm"
    run_dir.mkdir(parents=True, exist_ok=True)

    async def first() -> tuple[Accelerator, float]:
        accelerator = await choose_accelerator(state_dir, run_dir, MEMORY_MB, lambda _: None)
        started = time.monotonic()
        request = {"op": "probe", "accelerator": accelerator, "memory_mb": MEMORY_MB}
        await run_worker(request, lambda _: None, run_dir=run_dir, timeout_s=PROBE_TIMEOUT_S)
        return accelerator, time.monotonic() - started

    return asyncio.run(first())


def convert(
    replicas: Sequence[Path],
    volumes: Sequence[Path],
    uefi: bool,
    way: Literal["fast", "full"],
    accelerator: Accelerator,
    work: Path,
) -> Sample:
    """From the call to flushed volumes. Raises CoriolisError; OSError when another way was taken."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    nics = (NicIdentity(DEFAULT_MAC),)
    request = ConversionRequest("linux", "kvm", "EFI" if uefi else "BIOS", "bench", nics, way)
    settings = ConversionSettings(accelerator=accelerator)
    with ExitStack() as opened:
        readers = [opened.enter_context(closing(CountedVolume(path))) for path in replicas]
        writers = [opened.enter_context(closing(CountedVolume(path, writable=True))) for path in volumes]
        started = time.monotonic()
        result = asyncio.run(convert_disks(request, readers, writers, work, lambda _: None, settings=settings))
        seconds = time.monotonic() - started
    if result.summary.done.way != way:
        raise OSError(f"the {result.summary.done.way} way was taken instead of the {way} one")
    read = sum(volume.read for volume in (*readers, *writers))
    return Sample(seconds, read, sum(volume.written for volume in writers), said=(*result.messages, _times(result)))


def _times(result: ConversionResult) -> str:
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.summary.times.items())
    return f"the worker needed: {steps}; all before the write {result.summary.seconds:.1f} s"
