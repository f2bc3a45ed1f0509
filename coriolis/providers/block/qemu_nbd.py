"""Exports one checked image file over a private unix socket with qemu-nbd."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from coriolis.providers.block.tool import (
    MAX_DIAGNOSTIC_BYTES,
    Limits,
    descriptor_path,
    pass_descriptor,
    start_tool,
    stop_tool,
    tool_error,
)

BACKLOG = 16
_FOLDER_PREFIX = "coriolis-nbd-"
MIN_AGE_S = 60.0
MAX_SWEPT = 1000
SERVER_LIMITS = Limits()

_DRIVER_OPTIONS: dict[str, dict[str, Any]] = {
    # backing None: even a header that is swapped after the check cannot make qemu open a second file.
    "qcow2": {"driver": "qcow2", "backing": None},
    "vmdk": {"driver": "vmdk", "backing": None},
    "vpc": {"driver": "vpc", "force_size_calc": "current_size"},
    "vhdx": {"driver": "vhdx"},
}


class Export(msgspec.Struct, frozen=True):
    """Which bytes of an open file hold the image, its stated format, and how to serve it.

    ``offset``/``length`` select a part of the file (an archive member); length 0 is the whole file.
    ``bitmap`` names a persistent qcow2 bitmap to serve as ``qemu:dirty-bitmap:<bitmap>``.
    """

    descriptor: int
    format: str
    offset: int = 0
    length: int = 0
    bitmap: str = ""
    writable: bool = False


def image_options(export: Export, path: str) -> dict[str, Any]:
    """The block graph for qemu: format and file stated, nothing probed."""
    file: dict[str, Any] = {"driver": "file", "filename": path}
    if export.length:
        file = {"driver": "raw", "offset": export.offset, "size": export.length, "file": file}
    if export.writable:
        return {**_DRIVER_OPTIONS[export.format], "discard": "unmap", "file": file}
    return {**_DRIVER_OPTIONS[export.format], "file": file}


def command(export: Export, descriptor: int) -> list[str]:
    """Arguments of qemu-nbd; it takes its listening socket as descriptor 3."""
    argv = ["qemu-nbd", "--persistent", "--shared=0"]
    argv += ["--discard=unmap", "--detect-zeroes=off"] if export.writable else ["--read-only"]
    if export.bitmap:
        argv.append(f"--bitmap={export.bitmap}")
    return [*argv, "json:" + json.dumps(image_options(export, descriptor_path(descriptor)))]


def remove_dead_folders(parent: str, min_age_s: float = MIN_AGE_S) -> None:
    """Remove what killed processes left: folders whose socket nobody serves any more. The youngest are spared."""
    for path in glob.glob(os.path.join(parent, f"{_FOLDER_PREFIX}*"))[:MAX_SWEPT]:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if time.time() - os.stat(path).st_mtime < min_age_s:
                continue
            if probe.connect_ex(os.path.join(path, "nbd.sock")) in (errno.ECONNREFUSED, errno.ENOENT):
                shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def qemu_nbd(export: Export) -> AsyncIterator[str]:
    """Path of a unix socket that serves ``export`` while inside. The image must have passed ``image_check``.

    A server that dies at start shows as a connection that fails; ``server_said`` then holds its words.
    """
    remove_dead_folders(tempfile.gettempdir())
    private = tempfile.mkdtemp(prefix=_FOLDER_PREFIX)
    path = os.path.join(private, "nbd.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = pass_descriptor(export.descriptor)
    process = None
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
        with open(os.path.join(private, "stderr"), "wb") as said:  # noqa: ASYNC230 - a new local file
            listen = pass_descriptor(listener.fileno())
            try:
                process = await start_tool(
                    command(export, descriptor),
                    [descriptor],
                    limits=SERVER_LIMITS,
                    listen=listen,
                    stderr=said.fileno(),
                )
            finally:
                os.close(listen)
        # Only the server holds the socket now: if it dies, waiting connections end instead of hanging.
        listener.close()
        yield path
    finally:
        listener.close()
        os.close(descriptor)
        if process is not None:
            await stop_tool(process)
        shutil.rmtree(private, ignore_errors=True)


def server_error(socket_path: str, cause: Exception) -> Exception:
    """The error for a server that could not be reached: what it said, or ``cause``."""
    try:
        with open(os.path.join(os.path.dirname(socket_path), "stderr"), "rb") as said:
            text = said.read(16 * MAX_DIAGNOSTIC_BYTES)
    except OSError:
        return cause
    return tool_error("qemu-nbd", None, text) if text else cause
