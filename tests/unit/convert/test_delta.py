from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coriolis.convert import delta
from coriolis.convert.delta import DeltaExtent, DeltaHeader
from coriolis.errors import Corrupt, InvalidInput, QuotaExceeded
from tests.unit.convert.memory_volume import Killed, MemoryVolume

DISK = 1 << 20
EXTENTS = (DeltaExtent(4096, 8192, False), DeltaExtent(65536, 4096, True), DeltaExtent(131072, 100, False))
PAYLOAD = bytes(range(1, 252)) * 40
HEADER = DeltaHeader(0, DISK, "replica-1", EXTENTS)


def saved(tmp_path: Path) -> delta.Delta:
    return delta.save(tmp_path / "d", HEADER, [PAYLOAD[:5000], PAYLOAD[5000:8292]])


def expected(old: bytes) -> bytes:
    new = bytearray(old)
    new[4096:12288] = PAYLOAD[:8192]
    new[65536:69632] = bytes(4096)
    new[131072:131172] = PAYLOAD[8192:8292]
    return bytes(new)


async def test_what_is_saved_is_loaded_and_applied(tmp_path: Path) -> None:
    kept = saved(tmp_path)
    loaded = delta.load(tmp_path / "d")
    assert loaded == kept
    assert (loaded.header.data_bytes, loaded.header.zero_bytes) == (8292, 4096)
    volume = MemoryVolume(b"\xaa" * DISK)
    await delta.apply(loaded, volume)
    assert bytes(volume.data) == expected(b"\xaa" * DISK)
    assert volume.flushed_writes == volume.writes == 3
    assert [path.name for path in tmp_path.iterdir()] == ["d"], "no part file is left"


@pytest.mark.parametrize("writes", [0, 1, 2])
async def test_applying_again_after_a_kill_gives_the_same(tmp_path: Path, writes: int) -> None:
    kept = saved(tmp_path)
    volume = MemoryVolume(b"\xaa" * DISK, die_after_writes=writes)
    with pytest.raises(Killed):
        await delta.apply(kept, volume)
    assert bytes(volume.data) != expected(b"\xaa" * DISK)
    volume.die_after_writes = None
    await delta.apply(kept, volume)
    assert bytes(volume.data) == expected(b"\xaa" * DISK)


def test_every_torn_file_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    whole = (tmp_path / "d").read_bytes()
    for cut in [*range(0, len(whole) - 1, 97), len(whole) - 1]:
        (tmp_path / "torn").write_bytes(whole[:cut])
        with pytest.raises(Corrupt):
            delta.load(tmp_path / "torn")


@settings(max_examples=200)
@given(data=st.data())
def test_every_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("flip")
    saved(directory)
    raw = bytearray((directory / "d").read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    (directory / "d").write_bytes(raw)
    with pytest.raises(Corrupt):
        delta.load(directory / "d")


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="cannot be read"):
        delta.load(tmp_path / "none")


@pytest.mark.parametrize(
    "extents",
    [
        (DeltaExtent(0, 0, True),),
        (DeltaExtent(DISK - 1, 2, True),),
        (DeltaExtent(4096, 10, True), DeltaExtent(0, 10, True)),
        (DeltaExtent(0, 10, True), DeltaExtent(9, 10, True)),
    ],
)
def test_bad_extents_are_refused(extents: tuple[DeltaExtent, ...]) -> None:
    with pytest.raises(Corrupt):
        delta.check(DeltaHeader(0, DISK, "x", extents))


def test_the_limit_is_two_gib_of_data_but_not_of_zeroes() -> None:
    disk = 1 << 42
    delta.check(DeltaHeader(0, disk, "x", (DeltaExtent(0, 2 << 30, False), DeltaExtent(3 << 30, 9 << 30, True))))
    with pytest.raises(QuotaExceeded, match="2147483649 bytes in 1 extents"):
        delta.check(DeltaHeader(0, disk, "x", (DeltaExtent(0, (2 << 30) + 1, False),)))


def test_a_payload_of_another_length_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="has 10 bytes where its extents say 8292"):
        delta.save(tmp_path / "d", HEADER, [bytes(10)])
    assert not (tmp_path / "d").exists()


async def test_a_volume_too_small_is_not_touched(tmp_path: Path) -> None:
    volume = MemoryVolume(bytes(DISK - 1))
    with pytest.raises(InvalidInput):
        await delta.apply(saved(tmp_path), volume)
    assert volume.writes == 0
