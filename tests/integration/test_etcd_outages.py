"""The client when real etcd fails it: a full store, nodes that are killed or paused, leaders that change."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from coriolis.errors import Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.embedded import EmbeddedEtcd
from coriolis.etcd.txn import Put, Txn, absent
from coriolis.etcd.watch import watch
from tests.integration.etcd_cluster import EtcdCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    async with EtcdCluster(tmp_path, size=3) as running:
        yield running


async def test_a_full_store_says_so_and_recovers_without_restart(tmp_path: Path) -> None:
    async with (
        EmbeddedEtcd(tmp_path / "etcd", quota_bytes=16 * 1024 * 1024) as node,
        EtcdClient([node.endpoint]) as client,
    ):

        async def fill() -> None:
            # etcd sees its size grow only when a batch is committed, every 100 ms: a fast disk takes far more before
            for _ in range(1000):
                await client.put("/fill", bytes(1_000_000))

        with pytest.raises(Unavailable, match="space quota") as caught:
            await fill()
        assert not caught.value.outcome_unknown
        found = await client.get("/fill")
        assert found is not None
        await client.compact(found.mod_revision)
        await client.reclaim_space()
        await client.put("/fill", b"fits")


async def test_a_write_to_a_cluster_that_is_down_is_known_not_to_have_happened(tmp_path: Path) -> None:
    async with (
        EmbeddedEtcd(tmp_path / "etcd") as node,
        EtcdClient([node.endpoint], call_timeout_s=1) as client,
    ):
        await client.put("/a", b"1")
        os.kill(node.pid, signal.SIGKILL)
        await node.wait()
        await asyncio.sleep(0.1)
        with pytest.raises(Unavailable) as caught:
            await client.put("/a", b"2")
        assert not caught.value.outcome_unknown


async def test_a_write_without_an_answer_has_an_unknown_outcome(tmp_path: Path) -> None:
    async with (
        EmbeddedEtcd(tmp_path / "etcd") as node,
        EtcdClient([node.endpoint], call_timeout_s=1) as client,
    ):
        await client.put("/a", b"1")
        os.kill(node.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable) as caught:
                await client.put("/a", b"2")
        finally:
            os.kill(node.pid, signal.SIGCONT)
        assert caught.value.outcome_unknown


@pytest.mark.fault
async def test_reads_and_writes_go_on_after_the_raft_leader_was_killed(cluster: EtcdCluster) -> None:
    async with EtcdClient(cluster.endpoints) as client:
        await client.put("/n", b"0")
        await (await cluster.raft_leader()).kill()
        started = time.monotonic()
        written, refused = 0, []
        while written < 10:
            try:
                await client.put("/n", str(written).encode())
                written += 1
            except Unavailable as error:
                refused.append(error)
        assert all(error.outcome_unknown for error in refused)
        assert time.monotonic() - started < 10
        found = await client.get("/n")
        assert found is not None
        assert found.value == b"9"


@pytest.mark.fault
async def test_a_paused_member_is_left(cluster: EtcdCluster) -> None:
    async with EtcdClient(cluster.endpoints) as client:
        await client.put("/n", b"0")
        used = client.endpoints.members.index(await client.endpoints.ready(time.monotonic() + 1))
        cluster.nodes[used].pause()
        try:
            assert await client.get("/n") is not None
            await client.put("/n", b"1", idempotent=True)
        finally:
            cluster.nodes[used].resume()


@pytest.mark.fault
@pytest.mark.parametrize("pause", [False, True], ids=["kill", "pause"])
async def test_a_watch_goes_on_without_gap_or_repetition(cluster: EtcdCluster, pause: bool) -> None:
    """Two members in turn are killed and restarted, or the watched one is paused, while keys are written."""
    total = 60
    async with EtcdClient(cluster.endpoints) as writer, EtcdClient(cluster.endpoints) as reader:
        start = await writer.put("/start", b"")

        async def write() -> None:
            number = 0
            while number < total:
                try:
                    # Conditional, so that an unknown outcome is resolved by asking again.
                    txn = Txn((absent(f"/s/{number:03}"),), (Put(f"/s/{number:03}", b""),))
                    await writer.commit(txn, idempotent=True)
                    number += 1
                except Unavailable:
                    pass
                await asyncio.sleep(0.03)

        async def read() -> list[str]:
            keys: list[str] = []
            async with aclosing(watch(reader, "/s/", prefix=True, start_revision=start + 1)) as batches:
                async for batch in batches:
                    keys += [event.key for event in batch.events]
                    if len(keys) >= total:
                        break
            return keys

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            reading = tasks.create_task(read())
            await asyncio.sleep(0.3)
            if pause:
                cluster.nodes[0].pause()
                await asyncio.sleep(3)
                cluster.nodes[0].resume()
            else:
                for node in cluster.nodes[:2]:
                    await node.kill()
                    await asyncio.sleep(1)
                    await cluster.start(node)
                    await cluster.wait_ready(node)
        assert reading.result() == [f"/s/{number:03}" for number in range(total)]
