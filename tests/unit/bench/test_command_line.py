"""What the bench's command line decides by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import chosen_size, main

GIB = 1 << 30


@pytest.mark.parametrize(
    ("asked", "memory", "in_memory", "size", "remark"),
    [
        (None, 20 * GIB, True, 4 * GIB, False),
        (None, 9 * GIB, True, 2 * GIB, True),
        (None, 9 * GIB, False, 4 * GIB, False),
        (0.25, 9 * GIB, True, GIB // 4, False),
    ],
)
def test_images_shrink_when_memory_is_short_and_it_is_said(
    asked: float | None, memory: int, in_memory: bool, size: int, remark: bool
) -> None:
    found, said = chosen_size(asked, memory, in_memory)
    assert (found, bool(said)) == (size, remark)


def test_an_unknown_word_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--transport", "grcp", "--out", str(tmp_path / "x.json")])
    assert done.exit_code == 2
    assert "choose among direct, grpc, auto" in done.output
