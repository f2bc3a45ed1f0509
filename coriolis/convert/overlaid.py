"""Sealed replicas under overlays, and the worker that looks into them: what conversion and inspection share."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from coriolis.convert import overlay
from coriolis.convert.appliance import CONVERSION_TIMEOUT_S, Accelerator, choose_accelerator, remove_dead_sockets
from coriolis.convert.nbd_export import Counters, export
from coriolis.convert.request import ConversionRequest, ConversionSettings, job_document
from coriolis.convert.worker_process import run_worker
from coriolis.durable_file import replace_file
from coriolis.errors import CoriolisError
from coriolis.providers.base import BlockReader

_NOTE = "run-dir"

OnEvent = Callable[[str], None]


class Overlaid(msgspec.Struct, frozen=True):
    """``overlays``: qcow2 files, one per disk in boot order; ``exports``: what was read of each replica."""

    run_dir: Path
    accelerator: Accelerator
    overlays: tuple[Path, ...]
    exports: tuple[Counters, ...]

    @property
    def bytes_read(self) -> int:
        return sum(counters.bytes_read for counters in self.exports)


@asynccontextmanager
async def overlaid(
    readers: Sequence[BlockReader], work_dir: Path, settings: ConversionSettings, say: OnEvent
) -> AsyncIterator[Overlaid]:
    """The replicas, exported read-only, each under an overlay; everything is gone afterwards."""
    run_dir = _make_run_dir(work_dir)
    overlays = tuple(work_dir / f"overlay-{index}.qcow2" for index in range(len(readers)))
    try:
        accelerator = settings.accelerator
        if accelerator == "auto":
            state_dir = settings.state_dir or work_dir
            accelerator = await choose_accelerator(state_dir, run_dir, settings.memory_mb, say)
        async with AsyncExitStack() as stack:
            exports = []
            for index, (reader, path) in enumerate(zip(readers, overlays, strict=True)):
                socket_path = run_dir / f"{index}.sock"
                exports.append(await stack.enter_async_context(export(reader, socket_path)))
                await overlay.create_overlay(path, socket_path, reader.size)
            yield Overlaid(run_dir, accelerator, overlays, tuple(exports))
    finally:
        remove_leftovers(work_dir)


async def run_over(
    what: Literal["convert", "inspect"],
    disks: Overlaid,
    request: ConversionRequest,
    settings: ConversionSettings,
    say: OnEvent,
) -> dict[str, Any]:
    """The worker's answer. An error of a reader outranks what the guest's kernel made of it."""
    worker_request = {
        "op": what,
        "accelerator": disks.accelerator,
        "memory_mb": settings.memory_mb,
        "disks": [str(path.absolute()) for path in disks.overlays],
        "job": job_document(request, settings),
    }
    timeout_s = CONVERSION_TIMEOUT_S[disks.accelerator]
    try:
        answer = await run_worker(worker_request, say, run_dir=disks.run_dir, timeout_s=timeout_s)
    except CoriolisError as error:
        for counters in disks.exports:
            if counters.error is not None:
                raise counters.error from error
        raise
    for counters in disks.exports:
        if counters.error is not None:
            raise counters.error
    return answer


def remove_leftovers(work_dir: Path) -> None:
    """The overlays and the private directory of this run, or of a former one that was killed. Blocking."""
    for path in work_dir.glob("overlay-*.qcow2"):
        path.unlink(missing_ok=True)
    note = work_dir / _NOTE
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
        note.unlink()
    remove_dead_sockets()


def _make_run_dir(work_dir: Path) -> Path:
    """A private directory with a path short enough for sockets. It is noted before it is made: a kill in between
    leaves nothing that nobody knows of.
    """
    remove_leftovers(work_dir)
    run_dir = Path(tempfile.gettempdir(), f"coriolis-convert-{secrets.token_hex(8)}")
    replace_file(work_dir / _NOTE, str(run_dir).encode())
    run_dir.mkdir(mode=0o700)
    return run_dir
