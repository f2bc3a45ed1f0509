"""Filters of lvm.conf."""

from __future__ import annotations

import pytest

from coriolis.convert.linux import lvm


@pytest.mark.parametrize(
    ("setting", "hides"),
    [
        ('filter = [ "a|^/dev/sd[a-z]|", "r|.*|" ]', True),
        ('global_filter=["a/sda2/", "r/.*/"]', True),
        ('filter = [\n  "a|/dev/disk/by-path/pci.*|",\n  "r|.*|"\n]', True),
        ('filter = [ "a|/dev/sd.*|", "a|/dev/vd.*|", "r|.*|" ]', False),
        ('filter = [ "a|^/dev/[sv]d[a-z]|", "r|.*|" ]', False),
        ('filter = [ "a|.*|" ]', False),
        ('filter = [ "r|/dev/sdb|" ]', False),
        ('filter = [ "a|/dev/mapper/.*|", "r|.*|" ]', False),
    ],
)
def test_filters(setting: str, hides: bool) -> None:
    text = f'devices {{\n\t# filter = [ "a|.*|" ]\n\t{setting}\n\tx = 1\n}}\n'
    changed = lvm.without_old_filters(text)
    assert (changed != text) == hides
    assert changed.endswith("\n\tx = 1\n}\n")
    if hides:
        left = [line for line in changed.splitlines() if not line.lstrip().startswith("#")]
        assert left == ["devices {", "\tx = 1", "}"]
    assert lvm.without_old_filters(changed) == changed
