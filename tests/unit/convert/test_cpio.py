from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coriolis.convert.linux import cpio
from coriolis.errors import Corrupt

NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z0-9_.-]{1,12}){0,3}", fullmatch=True).filter(
    lambda name: ".." not in name.split("/")
)


@given(st.dictionaries(NAMES, st.binary(max_size=300), max_size=8))
def test_what_is_written_is_read_back(files: dict[str, bytes]) -> None:
    writer = cpio.Writer()
    for name, data in files.items():
        writer.add_file(name, data)
    archive = writer.finish()
    assert len(archive) % 512 == 0
    regular = {m.name: bytes(m.data) for m in cpio.members(archive) if stat.S_ISREG(m.mode)}
    assert regular == files


def test_lib_and_usr_never_become_directories() -> None:
    writer = cpio.Writer()
    writer.add_file("lib/modules/6.1/kernel/x.ko", b"x")
    writer.add_file("usr/lib/firmware/y", b"y")
    names = [member.name for member in cpio.members(writer.finish())]
    assert not {"lib", "usr", "usr/lib"} & set(names)
    assert names[:3] == ["lib/modules", "lib/modules/6.1", "lib/modules/6.1/kernel"]


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_the_real_cpio_reads_it() -> None:
    writer = cpio.Writer()
    writer.add_file("lib/modules/6.1/a.ko", b"12345")
    done = subprocess.run(["cpio", "-t"], input=writer.finish(), capture_output=True, check=True)
    assert done.stdout.split() == [b"lib/modules", b"lib/modules/6.1", b"lib/modules/6.1/a.ko"]


@pytest.mark.parametrize("cut", [1, 109, 130, 160])
def test_a_cut_archive_is_refused(cut: int) -> None:
    writer = cpio.Writer()
    writer.add_file("a", b"x" * 100)
    with pytest.raises(Corrupt):
        list(cpio.members(writer.finish()[:cut]))


def test_an_endless_name_is_refused() -> None:
    header = b"070701" + b"0" * 88 + b"7FFFFFFF" + b"0" * 8
    with pytest.raises(Corrupt, match="name of 2147483647"):
        cpio.parse_header(header)
