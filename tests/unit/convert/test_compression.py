"""Streams of a guest: where they end, and what damaged or greedy ones come to."""

from __future__ import annotations

import gzip
import lzma

import pytest

from coriolis.convert.linux import compression, host_tools, kmod_index
from coriolis.errors import Corrupt, Unsupported
from tests.unit.convert.dracut_guest import by_tool

DATA = bytes(range(256)) * 500


def packed(kind: str) -> bytes:
    tools = {"lzo": "lzop"}
    if kind == "lzma":
        return lzma.compress(DATA, lzma.FORMAT_ALONE)
    return by_tool(tools.get(kind, kind), DATA)


KINDS = ["gzip", "xz", "bzip2", "lzma", "zstd", "lz4", "lzo"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_stream_is_not_part_of_it(kind: str) -> None:
    stream = packed(kind)
    assert compression.unpacked(kind, stream + bytes(64)) == (DATA, len(stream))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_streams_are_corrupt(kind: str) -> None:
    stream = packed(kind)
    with pytest.raises(Corrupt):
        compression.unpacked(kind, stream[: len(stream) * 2 // 3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_unpacks_to_too_much_is_stopped(kind: str) -> None:
    with pytest.raises((Unsupported, Corrupt)):
        compression.unpacked(kind, packed(kind), limit=len(DATA) - 1)


def test_several_zstd_frames_are_one_stream() -> None:
    two = by_tool("zstd", DATA) + by_tool("zstd", b"more")
    assert compression.unpacked("zstd", two) == (DATA + b"more", len(two))


def test_modules_are_unpacked_by_their_ending() -> None:
    assert compression.plain_module("a/b.ko.gz", gzip.compress(b"x"), 10) == b"x"
    assert compression.plain_module("a/b.ko", b"x", 10) == b"x"


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_tools, "search_path", lambda: "/nonexistent")
    with pytest.raises(Unsupported, match="needs the program zstd for this guest; install the package zstd"):
        compression.unpacked("zstd", by_tool("zstd", DATA))


@pytest.mark.parametrize(
    "index", [b"", b"\xb0\x07\xf4\x57\0\2\0\1", b"\xb0\x07\xf4\x57\0\2\0\1\x20\0\0\x0c\0\xff" + b"\x20\0\0\x0c" * 256]
)
def test_hostile_indexes_end(index: bytes) -> None:
    with pytest.raises(Corrupt):
        kmod_index.entries(index)
