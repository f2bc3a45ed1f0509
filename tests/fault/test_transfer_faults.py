"""One disk, both transports, a bad wire or bad storage: identical bytes or a clear error, never a sealed wrong volume.

CORIOLIS_FAULT_RUNS sets how often each (3 here, 10 in CI, 100 by ``make fault``); CORIOLIS_FAULT_SEED repeats.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coriolis.agent import push_disk
from coriolis.agent.choose_route import Transport
from coriolis.agent.lanes import grpc_sink, sink_host
from coriolis.agent.manifest_update import differing_cells
from coriolis.agent.source_disk import SourceDisk
from coriolis.errors import CoriolisError
from coriolis.rpc.tls import TlsFiles
from coriolis.transfer.cells import CELL_BYTES
from coriolis.transfer.codec import HEADER_BYTES, Frame
from coriolis.transfer.manifest import decode_manifest
from tests.fault.children import seeded
from tests.fault.wire import Wire
from tests.unit.agent.pair import Lab, MemoryVolume, certificates, content, full_plan, sent
from tests.unit.agent.spied_sink import SpiedSink

RUNS = int(os.environ.get("CORIOLIS_FAULT_RUNS", "3"))
MIB = 1 << 20
RESENT_LIMIT = 64 * MIB
TRANSPORTS: tuple[Transport, ...] = ("grpc", "direct")
SIZE = 20 * MIB + 77
DISK = content(SIZE, [(0, 9 * MIB), (12 * MIB - 3, 7 * MIB), (SIZE - 77, 77)])
SENT_BYTES = 17 * MIB
"""More than a pass puts on the wire: 16 MiB and some blocks of zeros."""
ATTEMPTS = 4

pytestmark = [pytest.mark.fault, pytest.mark.timeout(60 + 20 * RUNS), pytest.mark.parametrize("transport", TRANSPORTS)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    return certificates(tmp_path_factory.mktemp("pki"), "source", "sink")


class GuardedVolume(MemoryVolume):
    """Notices the write that would be wrong, not only its result."""

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        assert data == DISK[offset : offset + len(data)], f"wrong bytes for {offset} were written"
        await super().write_at(offset, data)


def new_lab(folder: Path, tls: dict[str, TlsFiles], transport: Transport, volume: MemoryVolume | None = None) -> Lab:
    folder.mkdir()
    return Lab(folder, tls, volume or GuardedVolume(SIZE), transport=transport)


async def attempts(here: Lab, control: Wire | None = None) -> list[SourceDisk]:
    """As the coordinator: again, one generation higher, until it is sealed. Every error on the way may be retried."""
    made: list[SourceDisk] = []
    for generation in range(1, ATTEMPTS + 1):
        async with here.sink(generation) as (_, port):
            if control is not None:
                control.target = port
            through = port if control is None else control.port
            async with here.source(through, DISK, generation=generation) as source:
                made.append(source)
                try:
                    await sent(source, full_plan(DISK))
                except CoriolisError as failed:
                    if not failed.retryable:
                        raise
                    continue
        assert source.sealed
        assert here.volume.safe == DISK
        return made
    raise AssertionError(f"not sealed in {ATTEMPTS} attempts")


def check_resent(made: list[SourceDisk]) -> None:
    sent_bytes = sum(each.sender.stats.sent_bytes for each in made if each.sender is not None)
    assert sent_bytes <= SENT_BYTES + RESENT_LIMIT


# -- connections cut, stalled --------------------------------------------------------------------------------------


async def test_lanes_cut_after_random_bytes(tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport) -> None:
    cuts = 0
    for number in range(RUNS):
        rng = seeded(f"cut-{transport}", number)
        here = new_lab(tmp_path / str(number), tls, transport)
        async with Wire() as wire:
            here.road = wire
            wire.cut_at = rng.randrange(10_000, 16 * MIB)
            made = await attempts(here)
            cuts += wire.cuts
            assert len(made) == 1, "a lane is replaced without a new attempt"
            assert wire.bytes <= SENT_BYTES + 2 * push_disk.MAX_LANE_BYTES, "a lane costs what was on the way on it"
        check_resent(made)
    assert cuts == RUNS


async def test_the_control_channel_is_cut_after_random_bytes(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport
) -> None:
    cuts = 0
    for number in range(RUNS):
        rng = seeded(f"control-{transport}", number)
        here = new_lab(tmp_path / str(number), tls, transport)
        async with Wire() as control:
            # a handshake is 3 KiB, a pass about 10
            control.cut_at = rng.randrange(200, 12_000)
            check_resent(await attempts(here, control))
            cuts += control.cuts
    assert cuts >= RUNS // 2, "most cuts fall into the pass"


async def test_a_lane_that_swallows_everything_is_left_behind(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are accepted and never delivered: no error tells, only that nothing moves."""
    monkeypatch.setattr(push_disk, "LANE_STALL_S", 1.5)
    loop = asyncio.get_running_loop()
    for number in range(max(1, RUNS // 5)):
        rng = seeded(f"stall-{transport}", number)
        here = new_lab(tmp_path / str(number), tls, transport)
        async with Wire() as wire:
            here.road = wire
            wire.swallow_from = rng.randrange(10_000, 15 * MIB)
            began = loop.time()
            made = await attempts(here)
            assert wire.swallowed_bytes, "one was swallowed"
            assert len(made) == 1
            assert loop.time() - began < 15, "long before the attempt as a whole would count as stalled"
        check_resent(made)


# -- bit flips (D1) ------------------------------------------------------------------------------------------------


class FlippedSink(SpiedSink):
    """Flips one bit of one payload, between TLS and the digest's check."""

    rng: random.Random
    skip = 0
    flipped = 0

    def seen(self, frame: Frame) -> Frame:
        if not len(frame.payload) or self.flipped:
            return frame
        if self.skip:
            self.skip -= 1
            return frame
        self.flipped += 1
        damaged = bytearray(frame.payload)
        damaged[self.rng.randrange(len(damaged))] ^= 1 << self.rng.randrange(8)
        return msgspec.structs.replace(frame, payload=bytes(damaged))


async def test_a_bit_of_a_payload_flipped_above_tls(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport
) -> None:
    for number in range(RUNS):
        rng = seeded(f"payload-{transport}", number)
        here = new_lab(tmp_path / str(number), tls, transport)
        here.sink_class = type("F", (FlippedSink,), {"rng": rng, "skip": rng.randrange(15)})
        made = await attempts(here)
        [sink] = here.sinks
        assert isinstance(sink, FlippedSink)
        assert sink.flipped == 1
        assert made[0].sender is not None
        assert made[0].sender.stats.resent_bytes > 0, "refused and sent again"


async def test_a_bit_of_a_header_flipped_above_tls(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = grpc_sink if transport == "grpc" else sink_host
    name = "decode" if transport == "grpc" else "decode_header"
    real = getattr(module, name)
    for number in range(RUNS):
        rng = seeded(f"header-{transport}", number)
        state = {"skip": rng.randrange(15), "flipped": 0}

        def flip(message: bytes | memoryview, rng: random.Random = rng, state: dict[str, int] = state) -> Any:
            changed = bytearray(message)
            state["skip"] -= 1
            if state["skip"] < 0 and not state["flipped"]:
                state["flipped"] = 1
                changed[rng.randrange(HEADER_BYTES)] ^= 1 << rng.randrange(8)
            return real(bytes(changed))

        monkeypatch.setattr(module, name, flip)
        here = new_lab(tmp_path / str(number), tls, transport)
        await attempts(here)
        assert state["flipped"] == 1


async def test_a_bit_of_a_lane_flipped_on_the_wire(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport
) -> None:
    flips = 0
    for number in range(RUNS):
        rng = seeded(f"wire-{transport}", number)
        here = new_lab(tmp_path / str(number), tls, transport)
        async with Wire() as wire:
            here.road = wire
            # past the handshakes: damage in those refuses a connection as a stranger's would be
            wire.flip_at = rng.randrange(100_000, 16 * MIB)
            await attempts(here)
            flips += wire.flips
    assert flips == RUNS


async def test_a_bit_of_the_stored_volume_flipped_is_found_by_verification(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport
) -> None:
    here = new_lab(tmp_path / "lab", tls, transport)
    await attempts(here)
    _, table = decode_manifest(here.manifest.read_bytes())
    assert await differing_cells(table, here.volume) == []
    for number in range(RUNS):
        rng = seeded(f"stored-{transport}", number)
        byte, bit = rng.randrange(SIZE), 1 << rng.randrange(8)
        here.volume.now[byte] ^= bit
        assert await differing_cells(table, here.volume) == [byte // CELL_BYTES]
        here.volume.now[byte] ^= bit


# -- storage -------------------------------------------------------------------------------------------------------


class SlowVolume(GuardedVolume):
    """D5: 200 ms a write."""

    async def write_at(self, offset: int, data: bytes | memoryview) -> None:
        await asyncio.sleep(0.2)
        await super().write_at(offset, data)


async def test_slow_storage_is_waited_for(tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport) -> None:
    here = new_lab(tmp_path / "lab", tls, transport, SlowVolume(SIZE))
    made = await attempts(here)
    assert len(made) == 1
    assert made[0].sender is not None
    assert made[0].sender.stats.resent_bytes == 0, "slow is not lost"


async def test_a_full_destination_is_an_error_and_goes_on_with_room(
    tmp_path: Path, tls: dict[str, TlsFiles], transport: Transport
) -> None:
    here = new_lab(tmp_path / "lab", tls, transport)
    here.volume.room = 5 * MIB + 100
    with pytest.raises(CoriolisError, match="no space"):
        await here.send(DISK, full_plan(DISK))
    assert not here.manifest.exists(), "nothing was sealed"
    here.volume.room = None
    source = await here.send(DISK, full_plan(DISK), generation=2)
    assert here.volume.safe == DISK
    assert source.sender is not None
    assert source.sender.stats.sent_bytes <= SENT_BYTES - 5 * MIB + RESENT_LIMIT
