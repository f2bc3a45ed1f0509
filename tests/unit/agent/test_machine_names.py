"""Names at destinations that know plain ones only."""

from __future__ import annotations

import pytest

from coriolis.agent.tasks.machine_request import plain_name
from coriolis.providers.block.sidecar import check_name


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("web-1.example_x", "web-1.example_x"),
        ("CentOS 7", "CentOS-7"),
        ("a/b\\c", "a-b-c"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("東京", "instance"),
        ("", "instance"),
        ("x" * 300, "x" * 128),
    ],
)
def test_plain_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain
    check_name(plain, "instance name")
