"""kill -9 of task processes and lane processes in the middle of the data (A1, A2): the next attempt finishes the disk.

CORIOLIS_FAULT_RUNS sets the kills of each task (3 here, 10 in CI, 100 by ``make fault``); CORIOLIS_FAULT_SEED repeats.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from coriolis.agent.lanes.hosts import WORTH_A_PROCESS_BYTES
from coriolis.model.task import Role
from coriolis.rpc.tls import TlsFiles
from tests.fault.children import MIB, Children, digest, kill, seeded, until_gone, write_origin
from tests.unit.agent.pair import certificates

RUNS = int(os.environ.get("CORIOLIS_FAULT_RUNS", "3"))
RESENT_LIMIT = 64 * MIB
SIZE = WORTH_A_PROCESS_BYTES + 3 * MIB + 512
DATA = [(0, 160 * MIB), (200 * MIB + 5, 20 * MIB), (SIZE - 512, 512)]
RATE = 250.0 * MIB
"""Of the wire, so that a kill can land anywhere in the second that the disk then takes."""

pytestmark = [pytest.mark.fault, pytest.mark.timeout(60 + 30 * RUNS)]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    return certificates(tmp_path_factory.mktemp("pki"), "source", "sink")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_origin(tmp_path_factory.mktemp("kills") / "origin", SIZE, DATA, seed=1)


def source_child(children: Children, rng: random.Random) -> int:
    return children.attempts[-1].pids[Role.SOURCE]


def sink_child(children: Children, rng: random.Random) -> int:
    return children.attempts[-1].pids[Role.SINK]


def lane_process(children: Children, rng: random.Random) -> int:
    return rng.choice(children.lane_processes())


@pytest.mark.parametrize(
    ("victim", "runs"), [(source_child, RUNS), (sink_child, RUNS), (lane_process, max(2, RUNS // 3))]
)
async def test_a_killed_process_costs_what_was_on_the_way(
    tmp_path: Path, tls: dict[str, TlsFiles], origin: Path, victim: Callable[[Children, random.Random], int], runs: int
) -> None:
    truth = digest(origin, SIZE)
    for number in range(runs):
        rng = seeded(victim.__name__, number)
        transport = rng.choice(["grpc", "direct"]) if victim is not lane_process else "direct"
        children = Children(tmp_path / str(number), tls, transport=transport, rate=RATE)
        children.folder.mkdir()
        children.origin.symlink_to(origin.parent)
        async with children.running():
            await children.attempt()
            await children.until_moving(rng.uniform(0.02, 0.95), SIZE)
            lanes = children.lane_processes()
            before = children.progress.done_bytes
            if lanes:  # else it was over already
                kill(victim(children, rng))
            if not await _is_over(children):
                await children.attempt()
                await until_gone(lanes)
                await children.until_sealed()
                resent = children.progress.sent_bytes - (SIZE - before)
                assert resent <= RESENT_LIMIT, f"run {number}: {resent} bytes more than what was missing"
        await until_gone(children.lane_processes())
        assert digest(children.volume, SIZE) == truth, f"run {number}"
        assert children.result["manifests"], "sealed"
        children.volume.unlink()


async def _is_over(children: Children) -> bool:
    """Whether both parts ended well all the same: the kill came after all was done."""
    ended = children.attempts[-1].ended.values()
    async with asyncio.timeout(30):
        while not all(each.done() for each in ended):
            if any(each.done() and each.result()[0] == "FAILED" for each in ended):
                return False
            await asyncio.sleep(0.02)
    return all(each.result()[0] == "COMPLETED" for each in ended)
