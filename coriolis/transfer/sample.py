"""Which cells a sampled verification reads: random by a seed, at least one of each group of 1,024 (1 GiB).

The choice depends on the number of cells, the sample and the seed only, on every machine and version: a report can be
repeated. Drawn from BLAKE3 in extendable output, as a shuffle of each group's cells that stops when it has enough.
"""

from __future__ import annotations

import re

import blake3
import msgspec

from coriolis.errors import InvalidInput
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.digest_tree import GROUP_CELLS

MAX_SEED = (1 << 53) - 1
"""What every JSON reader takes as an integer."""
MAX_SAMPLE_CHARS = 32
_WORD_BYTES = 8
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) ?%", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})(?:\.(\d{1,3}))? ?(B|KiB|MiB|GiB|TiB)", re.ASCII)
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Sample(msgspec.Struct, frozen=True):
    """How much of each disk to read: ``share`` in parts per hundred million, or ``size_bytes``; the other is 0."""

    share: int
    size_bytes: int
    text: str

    def cells_of(self, cells: int) -> int:
        """How many of ``cells`` to read, before every group gets its one; rounded up."""
        wanted = -(-cells * self.share // _WHOLE) if self.share else -(-self.size_bytes // CELL_BYTES)
        return min(cells, wanted)


_WHOLE = 100_000_000


def parse_sample(text: str) -> Sample:
    """``5%``, ``0.1%``, ``200MiB``, ``1.5GiB`` of each disk. Raises InvalidInput."""
    if len(text) <= MAX_SAMPLE_CHARS:
        if (found := _PERCENT.fullmatch(text)) and 0 < (share := round(float(found[1]) * 1_000_000)) <= _WHOLE:
            return Sample(share, 0, text)
        if found := _SIZE.fullmatch(text):
            unit = _UNITS[found[3]]
            size = int(found[1]) * unit + int((found[2] or "0").ljust(3, "0")) * unit // 1000
            if size:
                return Sample(0, size, text)
    raise InvalidInput(f"sample {text[:MAX_SAMPLE_CHARS]!r} is neither a share as 5% nor a size as 200MiB, above 0")


def sample_cells(cells: int, sample: Sample, seed: int) -> list[int]:
    """The chosen cells in increasing order: spread evenly over groups of 1,024, one of each at least."""
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"seed {seed} is outside 0 to {MAX_SEED}")
    wanted = sample.cells_of(cells)
    chosen: list[int] = []
    for first in range(0, cells, GROUP_CELLS):
        count = min(GROUP_CELLS, cells - first)
        share = wanted * (first + count) // cells - wanted * first // cells
        chosen += sorted(first + member for member in _draw(count, max(1, min(count, share)), seed, first))
    return chosen


def _draw(count: int, wanted: int, seed: int, group: int) -> list[int]:
    """``wanted`` different numbers below ``count``: the beginning of a Fisher-Yates shuffle."""
    source = blake3.blake3(b"coriolis-sample-1" + seed.to_bytes(8, "big") + group.to_bytes(8, "big"))
    words = source.digest(length=wanted * _WORD_BYTES)
    members = list(range(count))
    for place in range(wanted):
        word = int.from_bytes(words[place * _WORD_BYTES : (place + 1) * _WORD_BYTES], "big")
        other = place + word % (count - place)
        members[place], members[other] = members[other], members[place]
    return members[:wanted]
