"""The bench's images: what they hold, and how they are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.images import ALIGN, NAMES, SHARES, Content, Name, copy_sparse, first_difference, layout, make_image

MIB = 1 << 20


@given(st.sampled_from(NAMES), st.integers(0, 3 << 30), st.integers(0, 5))
@settings(max_examples=50)
def test_a_layout_covers_the_disk_without_gaps(name: Name, size: int, seed: int) -> None:
    end = 0
    for stretch in layout(name, size, seed):
        assert stretch.offset == end
        assert stretch.length > 0
        end += stretch.length
    assert end == size


@pytest.mark.parametrize("name", NAMES)
def test_shares_are_those_promised(name: Name) -> None:
    size = 4 << 30
    for kind, share in zip(("data", "zero"), SHARES[name], strict=True):
        total = sum(stretch.length for stretch in layout(name, size) if stretch.kind == kind)
        assert total / size == pytest.approx(share, abs=0.001)


def test_data_shrinks_as_it_does_in_the_field() -> None:
    data = Content(7).mixed(8 * MIB).tobytes()
    packer = zstandard.ZstdCompressor(level=1)
    packed = sum(len(packer.compress(data[start : start + MIB])) for start in range(0, len(data), MIB))
    assert 2.7 < len(data) / packed < 3.1
    assert len(Content(7).mixed(ALIGN + 1)) == ALIGN + 1


def test_an_image_is_the_same_each_time(tmp_path: Path) -> None:
    one, other = (make_image("realistic", 32 * MIB, tmp_path / name) for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_blocks * 512 < 26 * MIB


def test_copies_are_equal_and_one_wrong_byte_is_found(tmp_path: Path) -> None:
    image = make_image("mostly-empty", 24 * MIB, tmp_path)
    copy = tmp_path / "copy.raw"
    copy_sparse(image, copy)
    assert first_difference(image, copy) is None
    hole = next(stretch for stretch in layout("mostly-empty", 24 * MIB) if stretch.kind == "hole")
    with copy.open("r+b") as file:
        file.seek(hole.offset + hole.length // 2)
        file.write(b"\x01")
    # a byte written into a hole counts, seen from either side
    assert first_difference(image, copy) is not None
    assert first_difference(copy, image) is not None


def test_sizes_count(tmp_path: Path) -> None:
    for name, size in (("a", 4096), ("b", 8192)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert first_difference(tmp_path / "a", tmp_path / "b") == 4096
