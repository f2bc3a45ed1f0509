"""Detect, refuse, and only then let a tool open an image: the one gate in front of qemu.

The format is always stated by whoever describes the image; content that shows another format is refused. Our own
header rules come first, then oslo.utils' inspector as a second, independent opinion. Raw disks never come here: we
stream them ourselves and nobody probes them.
"""

from __future__ import annotations

import logging
import os

import msgspec

from coriolis.errors import Corrupt, HostileImage, InvalidInput, Unsupported
from coriolis.providers.block.os_errors import from_os_error
from coriolis.providers.block.raw_io import size_of
from coriolis.providers.image_headers import View, check_qcow2, check_vhd, detect
from coriolis.providers.image_headers_vmware_hyperv import check_vhdx, check_vmdk, metadata_end

DEFAULT_MAX_SIZE_BYTES = 64 << 40
"""Largest virtual disk accepted unless the endpoint says otherwise: 64 TiB, the largest VHDX."""
INSPECT_HEAD_BYTES = 8 << 20
INSPECT_MAX_BYTES = 64 << 20
INSPECT_TAIL_BYTES = 64 << 10
INSPECT_CHUNK_BYTES = 64 << 10

ALIASES = {"vhd": "vpc"}
_OSLO_NAMES = {"qcow2": "qcow2", "vmdk": "vmdk", "vpc": "vhd", "vhdx": "vhdx"}
_CHECKS = {"qcow2": check_qcow2, "vmdk": check_vmdk, "vpc": check_vhd, "vhdx": check_vhdx}
CHECKED_FORMATS = tuple(sorted(_CHECKS))
"""Container formats that may be opened; ``raw`` besides."""


class ImageFacts(msgspec.Struct, frozen=True):
    """An image that passed: its format (qemu's name) and its virtual size in bytes."""

    format: str
    virtual_size: int


def format_name(stated: str) -> str:
    """qemu's name of a stated format. Raises Unsupported for one that is never accepted."""
    name = ALIASES.get(stated.lower(), stated.lower())
    if name != "raw" and name not in _CHECKS:
        raise Unsupported(f"image format {stated!r} is not accepted; accepted: raw, {', '.join(CHECKED_FORMATS)}")
    return name


def check_image(
    descriptor: int,
    stated_format: str,
    *,
    stated_size: int | None = None,
    max_size: int = DEFAULT_MAX_SIZE_BYTES,
    offset: int = 0,
    length: int = 0,
) -> ImageFacts:
    """Facts of an image that may be opened. ``offset``/``length`` select a part of the file (0: the whole).

    Raises HostileImage, Unsupported or Corrupt with the reason. Starts no process and reads at most 64 MiB.
    """
    name = format_name(stated_format)
    if name == "raw":
        raise InvalidInput("raw disks are streamed, not checked")
    window = length or size_of(descriptor) - offset
    view = View(lambda at, count: _read(descriptor, offset, window, at, count), window)
    shown = detect(view)
    if shown != name:
        raise HostileImage(f"the image is stated to be {stated_format} but its content shows {shown}")
    size = _CHECKS[name](view)
    if size <= 0 or size > max_size:
        raise HostileImage(f"the image declares {size} bytes; 1 to {max_size} are accepted")
    if stated_size is not None and stated_size != size:
        raise HostileImage(f"the image declares {size} bytes but {stated_size} were stated for it")
    _second_opinion(view, name, size)
    return ImageFacts(name, size)


def _read(descriptor: int, base: int, window: int, at: int, count: int) -> bytes:
    if at < 0 or at >= window:
        return b""
    try:
        return os.pread(descriptor, min(count, window - at), base + at)
    except OSError as error:
        raise from_os_error(error, "read the image header") from error


def _second_opinion(view: View, name: str, size: int) -> None:
    """oslo.utils' verdict over head and tail of the image; reading all of it would cost a pass over the data."""
    if name == "vpc" and view.read(0, 8) != b"conectix":
        return  # a fixed VHD is a raw disk with a footer, which oslo.utils does not know
    # raw disks need none of it, and it takes as long to load as a small disk takes to move
    from oslo_utils.imageutils import format_inspector

    # The inspector logs every refusal as an error of its own; ours carries the reason.
    logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)
    inspector = format_inspector.ALL_FORMATS[_OSLO_NAMES[name]]()
    head = max(INSPECT_HEAD_BYTES, metadata_end(view) if name == "vhdx" else 0)
    if head > INSPECT_MAX_BYTES:
        raise HostileImage(f"the VHDX keeps its metadata beyond {INSPECT_MAX_BYTES} bytes")
    head = min(head, view.length)
    tail_from = max(head, view.length - INSPECT_TAIL_BYTES)
    try:
        for first, last in ((0, head), (tail_from, view.length)):
            for position in range(first, last, INSPECT_CHUNK_BYTES):
                inspector.eat_chunk(view.read(position, min(INSPECT_CHUNK_BYTES, last - position)))
        inspector.finish()
        inspector.safety_check()
        told = inspector.virtual_size
    except (format_inspector.SafetyCheckFailed, format_inspector.SafetyViolation) as error:
        raise HostileImage(f"the {name} image is refused by the inspector: {error}") from error
    except (format_inspector.ImageFormatError, ValueError, ArithmeticError, LookupError) as error:
        raise Corrupt(f"the {name} image cannot be understood: {error}") from error
    if not inspector.format_match or told != size:
        raise HostileImage(f"two readers of the {name} header disagree on its size: {told} and {size} bytes")
