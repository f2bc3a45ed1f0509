"""A disk that is slowed down or paused by a limit: no stall, no loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from coriolis.agent import push_disk
from tests.unit.agent.pair import Lab, content, full_plan, sent

MIB = 1 << 20
MakeLab = Callable[[int], Lab]


async def test_a_limit_holds_for_the_frames_of_all_lanes(lab: MakeLab) -> None:
    disk = content(4 * MIB, [(0, 4 * MIB)])
    here = lab(4 * MIB)
    here.pace.set_rate(2 * MIB, time.monotonic())
    began = time.monotonic()
    await here.send(disk, full_plan(disk))
    assert time.monotonic() - began >= 1.9
    assert here.volume.safe == disk


async def test_a_pause_longer_than_the_stall_limit_is_no_stall(lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_disk, "STALL_S", 1.5)
    disk = content(8 * MIB, [(0, 8 * MIB)])
    here = lab(8 * MIB)
    here.pace.set_rate(0, time.monotonic())
    async with here.sink() as (_, port), here.source(port, disk) as source:
        sending = asyncio.create_task(sent(source, full_plan(disk)))
        # the stall watch looks once a second: twice its limit passes
        done, _ = await asyncio.wait([sending], timeout=4)
        assert not done
        assert here.volume.written_bytes == 0
        here.pace.set_rate(None, time.monotonic())
        await sending
    assert here.volume.safe == disk
