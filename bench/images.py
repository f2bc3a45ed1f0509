"""The disk images that are copied: always the same bytes for the same name, size and version.

``incompressible``: random bytes everywhere. ``realistic``: 61.5% data that zstd level 1 shrinks 2.9 times, 8.7%
allocated zeros, 29.8% holes. ``mostly-empty``: 11% data of the same kind, the rest holes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

Name = Literal["incompressible", "realistic", "mostly-empty"]
Kind = Literal["data", "zero", "hole"]
NAMES: tuple[Name, ...] = get_args(Name)
VERSION = 1
"""Raised when the bytes change: old cached images are not used then."""
ALIGN = 4096
"""Extents of file systems begin and end at their blocks."""
STEP = 1 << 20
COPY_STEP = 8 << 20
SHARES: dict[Name, tuple[float, float]] = {
    "incompressible": (1.0, 0.0),
    "realistic": (0.615, 0.087),
    "mostly-empty": (0.11, 0.0),
}
"""Of the size: (data, allocated zeros)."""
EXTENT_BYTES = (8 << 10, 24 << 20)
"""Shortest and longest data extent; lengths are spread evenly over the orders of magnitude between them."""

PHRASE_BYTES = 16
"""Text is made of phrases of this length."""

Bytes = npt.NDArray[np.uint8]


class Stretch(msgspec.Struct, frozen=True):
    """What one range of an image holds. ``kind``: data, zero (allocated) or hole."""

    offset: int
    length: int
    kind: Kind


def layout(name: Name, size: int, seed: int = 1) -> list[Stretch]:
    """Stretches of the image: in order, without gaps, shares as in ``SHARES`` up to the rounding to ``ALIGN``."""
    data_share, zero_share = SHARES[name]
    if data_share == 1.0:
        return [Stretch(0, size, "data")] if size else []
    rng = random.Random(f"{name} {seed}")
    lengths = _cut(rng, int(size * data_share))
    gap_kinds: list[Literal["zero", "hole"]] = ["zero" if rng.random() < 0.4 else "hole" for _ in lengths]
    zeros = _split(rng, int(size * zero_share), gap_kinds.count("zero"))
    holes = _split(rng, size - sum(lengths) - sum(zeros), gap_kinds.count("hole"))
    found: list[Stretch] = []
    offset = 0
    for length, kind in zip(lengths, gap_kinds, strict=True):
        gap = (zeros if kind == "zero" else holes).pop()
        parts: tuple[tuple[int, Kind], ...] = ((length, "data"), (gap, kind))
        for part, what in parts:
            if part:
                found.append(Stretch(offset, part, what))
                offset += part
    if offset < size:
        found.append(Stretch(offset, size - offset, "hole"))
    return found


def _cut(rng: random.Random, total: int) -> list[int]:
    lengths: list[int] = []
    low, high = EXTENT_BYTES
    left = total // ALIGN * ALIGN
    while left > 0:
        length = min(left, max(ALIGN, int(low * (high / low) ** rng.random()) // ALIGN * ALIGN))
        lengths.append(length)
        left -= length
    return lengths


def _split(rng: random.Random, total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` uneven pieces, each a multiple of ``ALIGN``."""
    if parts == 0:
        return []
    weights = [rng.random() ** 3 for _ in range(parts)]
    scale = total / sum(weights)
    return [int(weight * scale) // ALIGN * ALIGN for weight in weights]


class Content:
    """Data of a disk as it is found in the field, in pieces of 4 KiB: text, tables and programs, random bytes."""

    TEXT, TABLE = 0.63, 0.29
    """Shares of pieces; the rest is incompressible. With these zstd level 1 reaches 2.9 on 1 MiB chunks."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz0123456789/._-=:", np.uint8)
        self._phrases = self._rng.choice(letters, (2048, PHRASE_BYTES))
        self._phrases[:, -1] = ord(" ")

    def random(self, length: int) -> Bytes:
        return np.frombuffer(self._rng.bytes(length), np.uint8)

    def mixed(self, length: int) -> Bytes:
        pieces = -(-length // ALIGN)
        kinds = self._rng.random(pieces)
        out = np.empty((pieces, ALIGN), np.uint8)
        text, table = kinds < self.TEXT, (kinds >= self.TEXT) & (kinds < self.TEXT + self.TABLE)
        rest = ~(text | table)
        out[text] = self._text(int(text.sum()))
        out[table] = self._table(int(table.sum()))
        out[rest] = self.random(int(rest.sum()) * ALIGN).reshape(-1, ALIGN)
        return out.reshape(-1)[:length]

    def _text(self, pieces: int) -> Bytes:
        # few are frequent, many are rare
        draws = self._rng.random(pieces * ALIGN // PHRASE_BYTES, dtype=np.float32)
        return self._phrases[(draws * draws * len(self._phrases)).astype(np.int32)].reshape(-1, ALIGN)

    def _table(self, pieces: int) -> Bytes:
        # records of 16 bytes: a slowly rising number, two small numbers, padding
        count = pieces * ALIGN // 16
        records = np.zeros((count, 4), np.uint32)
        records[:, 0] = np.arange(count, dtype=np.uint32) >> 4
        records[:, 1] = self._rng.integers(0, 1 << 10, count, dtype=np.uint16)
        records[:, 2] = self._rng.integers(0, 1 << 6, count, dtype=np.uint8)
        return records.view(np.uint8).reshape(-1, ALIGN)


def pieces(name: Name, size: int, seed: int = 1) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of everything allocated, at most ``STEP`` at a time."""
    content = Content(seed)
    zeros = bytes(STEP)
    for stretch in layout(name, size, seed):
        if stretch.kind == "hole":
            continue
        for start in range(0, stretch.length, STEP):
            length = min(STEP, stretch.length - start)
            if stretch.kind == "zero":
                yield stretch.offset + start, zeros[:length]
            elif name == "incompressible":
                yield stretch.offset + start, content.random(length).tobytes()
            else:
                yield stretch.offset + start, content.mixed(length).tobytes()


def make_image(name: Name, size: int, folder: Path) -> Path:
    """The cached image, made when it is absent. Raises OSError when the disk is too small for it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{size}-v{VERSION}.raw"
    if path.exists():
        return path
    needed = int(size * sum(SHARES[name])) + (1 << 30)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < needed:
        raise OSError(f"{folder} has {free >> 20} MiB free, image {name} needs {needed >> 20}: use --size or --images")
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces(name, size):
            os.pwrite(file.fileno(), data, offset)
    fresh.rename(path)
    return path


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what the file system calls data."""
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        offset = min(size, os.lseek(descriptor, begin, os.SEEK_HOLE))
        yield begin, offset - begin


def copy_sparse(source: Path, destination: Path) -> None:
    """A copy with the same holes, allocated zeros included."""
    with source.open("rb") as reader, destination.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        for begin, length in data_ranges(reader.fileno(), size):
            for offset in range(begin, begin + length, COPY_STEP):
                block = os.pread(reader.fileno(), min(COPY_STEP, begin + length - offset), offset)
                os.pwrite(writer.fileno(), block, offset)


def first_difference(one: Path, other: Path) -> int | None:
    """Offset of a block in which the files differ, or None when every byte is equal. Sizes count."""
    with one.open("rb") as left, other.open("rb") as right:
        size = os.fstat(left.fileno()).st_size
        if os.fstat(right.fileno()).st_size != size:
            return min(size, os.fstat(right.fileno()).st_size)
        for pair in ((left, right), (right, left)):
            # where one side has data, the other must read the same; where both have none, both read as zeros
            for begin, length in data_ranges(pair[0].fileno(), size):
                for offset in range(begin, begin + length, COPY_STEP):
                    count = min(COPY_STEP, begin + length - offset)
                    if os.pread(left.fileno(), count, offset) != os.pread(right.fileno(), count, offset):
                        return offset
    return None
