"""The lab's reader of a guest's console."""

from __future__ import annotations

import pytest

from tests.lab.boot import plain_text

SAID = b"\x1b[?2004hrunning\r\n\x1b[0;1;31mred\x1b[0m \x1b(Bplain"


@pytest.mark.parametrize("at", range(len(SAID)))
def test_an_escape_may_come_in_two_pieces(at: int) -> None:
    first, rest = plain_text(SAID[:at])
    second, left = plain_text(rest + SAID[at:])
    assert first + second == "running\r\nred plain"
    assert left == b""
