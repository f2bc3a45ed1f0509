"""Writes a staged raw volume in the format an image directory was asked for."""

from __future__ import annotations

import asyncio
import os

from coriolis.errors import InvalidInput
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.raw_io import open_disk, size_of
from coriolis.providers.block.staged import check_space
from coriolis.providers.block.tool import Limits, descriptor_path, pass_descriptor, run_tool
from coriolis.providers.image_check import check_image

SECTOR = 512
CONVERT_TIMEOUT_S = 24 * 3600.0
OVERHEAD_BYTES = 1 << 30
"""Room for tables above the data; the converter may not write more than disk + 1/8 + this."""

OUTPUTS: dict[str, tuple[str, str, str]] = {
    "raw": ("raw", "raw", ""),
    "qcow2": ("qcow2", "qcow2", "compat=1.1"),
    "vmdk": ("vmdk", "vmdk", "subformat=monolithicSparse"),
    "vhd": ("vpc", "vhd", "subformat=dynamic,force_size=on"),
    "vhdx": ("vhdx", "vhdx", "subformat=dynamic"),
}
"""Name in ``target_environment`` -> (qemu's name, file suffix, qemu-img options)."""


def check_output(size: int, wanted: str) -> None:
    """Raise InvalidInput when a disk of ``size`` bytes cannot keep its exact size in that format."""
    unit = (1 << 20) if wanted == "vhdx" else SECTOR
    if wanted != "raw" and (size == 0 or size % unit):
        raise InvalidInput(f"a disk of {size} bytes cannot be written as {wanted}, which has units of {unit}: use raw")


async def write_as(source: str, path: str, wanted: str) -> None:
    """Write the raw disk ``source`` to the new file ``path``, durably, and check that the size is exact."""
    if wanted == "raw":
        await asyncio.to_thread(_link, source, path)
        return
    name, _, options = OUTPUTS[wanted]
    descriptor = open_disk(source)
    passed = pass_descriptor(descriptor)
    try:
        size = size_of(descriptor)
        check_output(size, wanted)
        allocated = os.fstat(descriptor).st_blocks * SECTOR
        check_space(os.path.dirname(path), allocated, overcommit=False)
        argv = ["qemu-img", "convert", "-q", "-f", "raw", "-O", name, "-o", options, descriptor_path(passed), path]
        limits = Limits(file_size=size + size // 8 + OVERHEAD_BYTES)
        await run_tool(argv, [passed], limits=limits, timeout_s=CONVERT_TIMEOUT_S)
    finally:
        os.close(passed)
        os.close(descriptor)
    await asyncio.to_thread(_confirm, path, name, size)


def _link(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError as error:
        raise from_os_error(error, f"link {source} to {path}", os.path.dirname(path)) from error


def _confirm(path: str, name: str, size: int) -> None:
    descriptor = open_disk(path, os.O_RDWR)
    try:
        check_image(descriptor, name, stated_size=size)
        os.fsync(descriptor)
    except OSError as error:
        raise from_os_error(error, f"sync {path}", descriptor) from error
    finally:
        os.close(descriptor)
