"""Both sides of a task over each kind of road, with real TLS end to end; probes between agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from coriolis.agent.assignment import Assignment, RoadOrder
from coriolis.agent.data_listener import DataListener
from coriolis.agent.data_port import PortRange, bind_data_socket, join_address, split_address
from coriolis.agent.loop_thread import LoopThread
from coriolis.agent.probe import probe_peers
from coriolis.agent.relay import Relay
from coriolis.agent.road import PARKED, offer_road, open_road
from coriolis.agent.workplace import Workplace
from coriolis.errors import InvalidInput
from coriolis.rpc.channel import open_channel
from coriolis.rpc.gen.coriolis.v1 import agent_control_pb2 as pb
from coriolis.rpc.interceptors import MethodPolicy
from coriolis.rpc.tls import TlsFiles
from tests.unit.agent.pair import agent, certificates
from tests.unit.rpc.mesh import Echo, serving

KEY = b"k" * 32
HOST = "127.0.0.1"
CALLS = MethodPolicy({"/test.Echo/": ("agent",)})


class Side:
    """Meets what roads need of a TaskContext."""

    def __init__(self, role: str, tls: TlsFiles, road: RoadOrder, peer: str = "", meeting: str = "") -> None:
        self.workplace = Workplace("x", Path("unused"), tls, meeting_address=meeting)
        names = ("assignment_id", "project_id", "migration_id", "task_id", "task_type", "instance")
        fields: dict[str, Any] = dict.fromkeys(names, "x")
        self.assignment = Assignment(
            **fields,
            instance_index=0,
            role=role,
            generation=1,
            epoch=1,
            provider="image",
            input={},
            peer_address=peer,
            road=road,
        )


@asynccontextmanager
async def data_port(tls: TlsFiles, ports: PortRange | None = None) -> AsyncIterator[tuple[Relay, str]]:
    relay = Relay()
    listener = DataListener(bind_data_socket(HOST, ports), relay, tls)
    serve = asyncio.create_task(listener.serve())
    try:
        yield relay, join_address(HOST, listener.port)
    finally:
        serve.cancel()
        with suppress(asyncio.CancelledError):
            await serve


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, TlsFiles]:
    return certificates(tmp_path, "source", "sink", "relay", "stranger")


async def call(address: str, tls: TlsFiles, peer: str, data: bytes) -> bytes:
    async with open_channel(address, tls, agent(peer), own_connection=True) as channel:
        answer: bytes = await channel.unary_unary("/test.Echo/Unary")(data, timeout=20, wait_for_ready=True)
        return answer


@pytest.mark.parametrize("path", ["dialled", "reverse", "relay"])
async def test_calls_reach_the_sink_and_nobody_else(tls: dict[str, TlsFiles], path: str) -> None:
    echo = Echo()
    async with serving(tls["sink"], echo, CALLS) as sink_address, data_port(tls["relay"]) as (relay, meeting):
        relay.set_keys([KEY])
        port = int(sink_address.rpartition(":")[2])
        order = RoadOrder(path, "" if path == "dialled" else meeting, KEY)
        source = Side("source", tls["source"], order, sink_address, meeting)
        async with offer_road(Side("sink", tls["sink"], order), {"grpc": port}), open_road(source) as road:
            assert road.path == path
            address = road.address("grpc", port)
            assert address == road.address("grpc", port), "one forwarder per service"
            assert (address == sink_address) == (path == "dialled")
            # more calls at once than connections are parked
            async with asyncio.TaskGroup() as group:
                calls = [
                    group.create_task(call(address, tls["source"], "sink", bytes([number]) * 100_000))
                    for number in range(3 * PARKED)
                ]
            assert [task.result()[:1] for task in calls] == [bytes([number]) for number in range(3 * PARKED)]
            assert echo.callers == [agent("source")] * 3 * PARKED, "the sink sees who calls, not who copies"
            assert (relay.copied_pairs >= 3 * PARKED) == (path != "dialled")
            with pytest.raises(grpc.aio.AioRpcError):
                async with open_channel(address, tls["source"], agent("relay"), own_connection=True) as channel:
                    await channel.unary_unary("/test.Echo/Unary")(b"", timeout=5)
        if path != "dialled":
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*split_address(address))


async def test_a_relay_that_comes_back_is_used_again(tls: dict[str, TlsFiles]) -> None:
    with bind_data_socket(HOST, None) as finding:
        port = finding.getsockname()[1]
    ports, order = PortRange(port, port), RoadOrder("relay", join_address(HOST, port), KEY)
    async with serving(tls["sink"], Echo(), CALLS) as sink_address:
        sink_port = int(sink_address.rpartition(":")[2])
        source = Side("source", tls["source"], order, sink_address)
        async with offer_road(Side("sink", tls["sink"], order), {"grpc": sink_port}), open_road(source) as road:
            address = road.address("grpc", sink_port)
            for _ in range(2):
                async with data_port(tls["relay"], ports) as (relay, _):
                    relay.set_keys([KEY])
                    assert await call(address, tls["source"], "sink", b"again") == b"again"


async def test_a_road_without_a_place_to_meet_is_refused(tls: dict[str, TlsFiles]) -> None:
    nowhere = RoadOrder("relay", "", KEY)
    with pytest.raises(InvalidInput, match="data port"):
        async with offer_road(Side("sink", tls["sink"], nowhere), {}):
            pass
    with pytest.raises(InvalidInput, match="data port"):
        async with open_road(Side("source", tls["source"], nowhere)):
            pass


def test_the_key_is_not_in_what_is_logged(tls: dict[str, TlsFiles]) -> None:
    side = Side("sink", tls["sink"], RoadOrder("relay", "r:1", b"0123456789abcdef0123456789abcdef"))
    assert "0123456789" not in repr(side.assignment)
    assert "r:1" in repr(side.assignment)


# ---- the thread that carries them -----------------------------------------------------------------------------------


def test_a_failure_in_the_thread_is_raised_where_it_is_left() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    thread = LoopThread("test")
    thread.__enter__()
    thread.start(fail())
    thread._thread.join(5)
    with pytest.raises(BaseExceptionGroup) as raised:
        thread.__exit__(None, None, None)
    assert raised.group_contains(ValueError)


def test_leaving_ends_what_runs() -> None:
    ended = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with LoopThread("test") as thread:
        thread.start(forever())
    assert ended == [True]


# ---- probes ---------------------------------------------------------------------------------------------------------


def target(name: str, address: str) -> pb.ProbeTarget:
    return pb.ProbeTarget(agent_id=name, address=address, identity=agent(name))


async def test_probes_tell_who_is_there_and_how_far(tls: dict[str, TlsFiles]) -> None:
    with bind_data_socket(HOST, None) as gone:
        nobody = join_address(HOST, gone.getsockname()[1])
    async with data_port(tls["relay"]) as (_, address):
        wishes = [target("relay", address), target("sink", address), target("lost", nobody), target("odd", "no-port")]
        found = {each.agent_id: each for each in (await probe_peers(wishes, tls["source"])).results}
    assert found["relay"].reachable
    assert 0 < found["relay"].rtt_ms < 1000
    assert found["relay"].address == address
    for name, reason in (("sink", "TLS"), ("lost", "refused"), ("odd", "host:port")):
        assert not found[name].reachable
        assert reason in found[name].error, found[name].error


async def test_a_silent_port_is_not_reachable(tls: dict[str, TlsFiles], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coriolis.agent.probe.PROBE_TIMEOUT_S", 0.3)
    with bind_data_socket(HOST, None) as silent:  # accepts by its backlog and says nothing
        address = join_address(HOST, silent.getsockname()[1])
        [result] = (await probe_peers([target("relay", address)], tls["source"])).results
    assert not result.reachable
    assert "no answer" in result.error


async def test_only_agents_of_the_mesh_are_answered(tls: dict[str, TlsFiles], tmp_path: Path) -> None:
    foreign = certificates(tmp_path / "other", "source")["source"]
    async with data_port(tls["relay"]) as (_, address):
        [result] = (await probe_peers([target("relay", address)], foreign)).results
    assert not result.reachable
