"""Election and fence with real processes and real etcd. The store's history judges, not the candidates."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coriolis.coordinator.election import Election
from coriolis.coordinator.keys import LEADER
from coriolis.coordinator.leadership import LeadershipTerm, current_leader, leader_changes
from coriolis.coordinator.timeouts import Timeouts
from coriolis.errors import Corrupt, InvalidInput, StaleEpoch
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.embedded import EmbeddedEtcd
from tests.integration import election_candidate
from tests.integration.etcd_cluster import EtcdCluster

FAST: dict[str, Any] = {
    "leader_ttl_s": 3,
    "leader_keepalive_s": 0.5,
    "leader_step_down_s": 1.5,
    "leader_write_timeout_s": 1.0,
}


@dataclass
class Process:
    process: asyncio.subprocess.Process

    async def next(self, *events: str, timeout_s: float = 30) -> dict[str, Any]:
        """The next event of that name; others are skipped."""
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"the candidate ended while {events} was awaited"
                said: dict[str, Any] = json.loads(line)
                if said["event"] in events:
                    return said


@asynccontextmanager
async def candidate(
    endpoints: list[str], name: str, *, fenced: bool = True, timeouts: dict[str, Any] | None = None
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        election_candidate.__file__,
        ",".join(endpoints),
        name,
        "fenced" if fenced else "unfenced",
        json.dumps(FAST if timeouts is None else timeouts),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    async with EmbeddedEtcd(tmp_path / "etcd") as running:
        yield running


async def writes_after_overthrow(client: EtcdClient) -> int:
    """I7 from the store's own history: audit writes of an epoch accepted after a higher epoch began."""
    items = (await client.list("/audit/")).items.values()
    writes = [(int(item.key.split("/")[2]), item.mod_revision) for item in items]
    epochs = sorted({epoch for epoch, _ in writes})
    assert len(epochs) > 1, "nobody took over, so nothing was judged"
    return sum(any(epoch < later <= revision for later in epochs) for epoch, revision in writes)


@pytest.mark.fault
@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "control-without-fence"])
async def test_a_paused_leaders_write_is_refused_by_the_fence_alone(node: EmbeddedEtcd, fenced: bool) -> None:
    """B1. Without the epoch compare the same schedule does show an accepted write, so the fence is what
    refuses.
    """
    async with EtcdClient([node.endpoint]) as client, candidate([node.endpoint], "a", fenced=fenced) as old:
        first = await old.next("leading")
        async with candidate([node.endpoint], "b", fenced=fenced) as new:
            await new.next("campaigning")
            old.process.send_signal(signal.SIGSTOP)
            second = await new.next("leading")
            assert second["epoch"] > first["epoch"]
            old.process.send_signal(signal.SIGCONT)
            woke = time.monotonic()
            late = await old.next("late")
            assert time.monotonic() - woke < 2
            await asyncio.sleep(0.1)
            assert late["accepted"] is not fenced
            assert (await writes_after_overthrow(client) == 0) is fenced


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
async def test_a_new_leader_in_25_s_with_the_shipped_timeouts(tmp_path: Path, number: signal.Signals) -> None:
    async with (
        EtcdCluster(tmp_path, size=3) as cluster,
        EtcdClient(cluster.endpoints) as client,
        candidate(cluster.endpoints, "a", timeouts={}) as old,
    ):
        await old.next("leading")
        async with candidate(cluster.endpoints, "b", timeouts={}) as new:
            await new.next("campaigning")
            old.process.send_signal(number)
            killed = time.monotonic()
            if number == signal.SIGKILL:
                await cluster.nodes[0].kill()  # the member that both sides use dies with it
            await new.next("leading", timeout_s=25)
            assert time.monotonic() - killed <= Timeouts().takeover_bound_s
            await asyncio.sleep(0.2)
            assert await writes_after_overthrow(client) == 0


@pytest.mark.fault
async def test_a_leader_without_etcd_steps_down_before_its_key_can_be_given_away(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path, size=1) as cluster, candidate(cluster.endpoints, "a") as leader:
        await leader.next("leading")
        cluster.nodes[0].pause()
        paused = time.monotonic()
        try:
            await leader.next("ended")
            assert time.monotonic() - paused < FAST["leader_ttl_s"] - FAST["leader_write_timeout_s"]
        finally:
            cluster.nodes[0].resume()
        await leader.next("leading")


async def test_a_clean_stop_hands_over_at_once(node: EmbeddedEtcd) -> None:
    async with candidate([node.endpoint], "a") as old, EtcdClient([node.endpoint]) as client:
        await old.next("leading")
        async with candidate([node.endpoint], "b") as new:
            await new.next("campaigning")
            await asyncio.sleep(0.3)
            old.process.send_signal(signal.SIGTERM)
            stopped = time.monotonic()
            taken = await new.next("leading")
            assert time.monotonic() - stopped < 2
            await old.next("stopped")
            leader = await current_leader(client)
            assert leader is not None
            assert (leader.id, leader.address, leader.epoch) == ("b", "127.0.0.1:1", taken["epoch"])


@pytest.mark.parametrize("how", ["delete", "overwrite", "garbage"])
async def test_a_key_changed_by_hand_ends_the_term_and_is_fought_for_again(node: EmbeddedEtcd, how: str) -> None:
    """E4."""
    async with candidate([node.endpoint], "a") as leader, EtcdClient([node.endpoint]) as client:
        first = await leader.next("leading")
        if how == "delete":
            await client.delete(LEADER)
        else:
            await client.put(LEADER, b'{"id":"x","address":"y:1"}' if how == "overwrite" else b"\xff")
        changed = time.monotonic()
        ended = await leader.next("ended")
        assert time.monotonic() - changed < 2
        assert not ended["current"]
        again = await leader.next("leading")
        assert again["epoch"] > first["epoch"]


async def test_a_record_put_by_hand_while_nobody_leads_blocks_nobody(node: EmbeddedEtcd) -> None:
    async with EtcdClient([node.endpoint]) as client:
        await client.put(LEADER, b"by hand")
        assert await current_leader(client) is None
        async with candidate([node.endpoint], "a") as leader:
            await leader.next("leading", timeout_s=10)


def election(client: EtcdClient, name: str = "a") -> Election:
    return Election(client, name, "127.0.0.1:1", Timeouts(**FAST))


async def test_leading_ends_when_it_returns_and_its_errors_are_raised_after_resigning(
    node: EmbeddedEtcd,
) -> None:
    async with EtcdClient([node.endpoint]) as client:
        epochs: list[int] = []

        async def once(term: LeadershipTerm) -> None:
            assert term.is_current()
            epochs.append(term.epoch)

        async def broken(term: LeadershipTerm) -> None:
            raise Corrupt("the store makes no sense")

        async def overtaken_twice(term: LeadershipTerm) -> None:
            epochs.append(term.epoch)
            if len(epochs) < 4:
                raise StaleEpoch("a fenced write was refused")

        await election(client).run(once)
        with pytest.raises(Corrupt):
            await election(client).run(broken)
        assert await current_leader(client) is None
        await election(client).run(overtaken_twice)
        assert epochs == sorted(set(epochs))
        assert len(epochs) == 4


async def test_followers_see_every_change_of_leader(node: EmbeddedEtcd) -> None:
    async with EtcdClient([node.endpoint]) as client, aclosing(leader_changes(client)) as changes:
        assert await anext(changes) is None

        async def lead(term: LeadershipTerm) -> None:
            seen = await anext(changes)
            assert seen is not None
            assert (seen.id, seen.epoch) == ("a", term.epoch)

        await election(client).run(lead)
        assert await anext(changes) is None


def test_unsafe_timeouts_are_refused_at_the_start() -> None:
    with pytest.raises(InvalidInput, match="leader_step_down_s"):
        Election(None, "a", "x:1", Timeouts(leader_step_down_s=9.5))  # type: ignore[arg-type]
