"""Random reads over a stream: order, restarts, cuts, memory."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coriolis.errors import CoriolisError, Corrupt, Denied, InvalidInput, Unavailable
from coriolis.providers.base import span_of
from coriolis.providers.vmware_vsphere import stream_reader
from coriolis.providers.vmware_vsphere.export_messages import Batch
from coriolis.providers.vmware_vsphere.stream_reader import StreamReader
from coriolis.providers.vmware_vsphere.stream_vmdk import StreamVmdk

SECTOR, GRAIN = 512, 65536
SIZE = 40 * GRAIN
MIB = 1 << 20


def stream_of(content: bytes, *, end: bool = True) -> bytes:
    """A stream-optimised VMDK; grains of zeroes are left out."""
    head = struct.pack(
        "<4sIIQQQQIQQQBccccH",
        b"KDMV",
        3,
        0x30001,
        len(content) // SECTOR,
        128,
        0,
        0,
        512,
        0,
        0,
        1,
        0,
        b"\n",
        b" ",
        b"\r",
        b"\n",
        1,
    )
    out = bytearray(head.ljust(SECTOR, b"\0"))
    for at in range(0, len(content), GRAIN):
        piece = content[at : at + GRAIN]
        if any(piece):
            packed = zlib.compress(piece, 1)
            marker = struct.pack("<QI", at // SECTOR, len(packed)) + packed
            out += marker + bytes(-len(marker) % SECTOR)
    return bytes(out) + (bytes(SECTOR) if end else b"")


class Origin:
    """Serves a stream; ``cuts``: after how many bytes each opening ends, ``errors``: what an opening raises instead."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.cuts: list[int] = []
        self.errors: list[Exception] = []
        self.sent = self.opened = self.closed = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[Batch]]:
        self.opened += 1
        if self.errors:
            raise self.errors.pop(0)
        stream = self.stream[: self.cuts.pop(0)] if self.cuts else self.stream
        try:
            yield self._batches(stream)
        finally:
            self.closed += 1

    async def _batches(self, stream: bytes) -> AsyncIterator[Batch]:
        decoder = StreamVmdk()
        for at in range(0, len(stream), 10_000):
            await asyncio.sleep(0)
            piece = stream[at : at + 10_000]
            self.sent += len(piece)
            grains = list(decoder.feed(piece))
            yield Batch(decoder.size_bytes, grains, decoder.ended)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(stream_reader, "MAX_PAUSE_S", 0.001)


def disk(seed: int = 1) -> bytes:
    """Random data with holes, one of them at the end."""
    chance, out = random.Random(seed), bytearray(SIZE)
    for at in (0, 3 * GRAIN + 77, 17 * GRAIN, 30 * GRAIN):
        out[at : at + GRAIN + 1000] = chance.randbytes(GRAIN + 1000)
    return bytes(out)


async def test_reads_in_order_take_one_stream() -> None:
    truth = disk()
    origin = Origin(stream_of(truth))
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        assert origin.opened == 0, "who reads nothing holds no lease"
        step = 100_000
        for at in range(0, SIZE, step):
            length = min(step, SIZE - at)
            assert await reader.read_at(at, length) == truth[at : at + length]
        assert await reader.read_at(SIZE, 0) == b""
        with pytest.raises(InvalidInput):
            await reader.read_at(SIZE, 1)
    assert (origin.opened, origin.closed) == (1, 1)


async def test_reads_slightly_out_of_order_take_one_stream_too() -> None:
    truth = disk()
    origin = Origin(stream_of(truth))
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        places = list(range(0, SIZE, GRAIN))
        for at in range(0, len(places), 4):
            group = places[at : at + 4]
            random.Random(at).shuffle(group)
            found = await asyncio.gather(*(reader.read_at(place, GRAIN) for place in group))
            assert found == [truth[place : place + GRAIN] for place in group]
    assert origin.opened == 1


async def test_lanes_are_told_how_far_apart_they_may_read() -> None:
    async with StreamReader(Origin(b"").open, SIZE, "disk") as reader:
        assert span_of(reader) == stream_reader.BEHIND_BYTES


async def test_what_has_passed_and_was_dropped_is_streamed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "AHEAD_BYTES", GRAIN)
    monkeypatch.setattr(stream_reader, "BEHIND_BYTES", GRAIN)
    truth = disk()
    origin = Origin(stream_of(truth))
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        for _ in range(2):
            for at in range(0, SIZE, GRAIN):
                assert await reader.read_at(at, GRAIN) == truth[at : at + GRAIN]
    assert origin.opened == 2


async def test_the_stream_stays_close_to_its_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "AHEAD_BYTES", 2 * GRAIN)
    monkeypatch.setattr(stream_reader, "BEHIND_BYTES", 2 * GRAIN)
    truth = random.Random(2).randbytes(SIZE)
    origin = Origin(stream_of(truth))
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        assert await reader.read_at(0, 1) == truth[:1]
        await asyncio.sleep(0.05)
        assert origin.sent < 6 * GRAIN
        for at in range(0, SIZE, GRAIN):
            await reader.read_at(at, GRAIN)
            assert reader._window.held <= 5 * GRAIN


@pytest.mark.usefixtures("quick")
async def test_a_stream_that_breaks_off_is_opened_again() -> None:
    truth = disk()
    whole = stream_of(truth)
    origin = Origin(whole)
    origin.cuts = [len(whole) // 3, len(whole) - 512, 2000]
    origin.errors = [Unavailable("not now")]
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        got = b"".join([await reader.read_at(at, GRAIN) for at in range(0, SIZE, GRAIN)])
    assert got == truth
    assert origin.opened >= 3


@pytest.mark.usefixtures("quick")
async def test_a_stream_that_never_ends_well_is_given_up() -> None:
    origin = Origin(stream_of(disk(), end=False))
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        with pytest.raises(Unavailable, match="no end marker"):
            await reader.read_at(SIZE - 10, 10)
    assert origin.opened == stream_reader.FAILURES_IN_A_ROW


@pytest.mark.parametrize("error", [Denied("no"), Corrupt("broken")])
async def test_some_errors_are_final(error: Exception) -> None:
    origin = Origin(stream_of(disk()))
    origin.errors = [error]
    async with StreamReader(origin.open, SIZE, "disk") as reader:
        for _ in range(2):
            with pytest.raises(type(error)):
                await reader.read_at(0, 10)
    assert origin.opened == 1


async def test_an_export_of_another_size_is_refused() -> None:
    origin = Origin(stream_of(disk()))
    async with StreamReader(origin.open, SIZE - GRAIN, "disk") as reader:
        with pytest.raises(Corrupt, match="not"):
            await reader.read_at(0, 10)


async def test_what_nobody_foresaw_leaves_no_reader_waiting() -> None:
    origin = Origin(stream_of(bytes(SIZE)))
    origin.errors = [KeyError("an answer without its property")]
    async with StreamReader(origin.open, SIZE, "disk") as reader, asyncio.timeout(5):
        for _ in range(2):
            with pytest.raises(CoriolisError, match="disk: KeyError: 'an answer without its property'"):
                await reader.read_at(0, GRAIN)
