"""Which transport: what was asked for, or what works; never another one than was asked for by name."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from coriolis.agent.choose_route import TRANSPORTS, Transport, Ways, choose_route, wanted_transport
from coriolis.agent.push_disk import Offer
from coriolis.errors import CoriolisError, Denied, InvalidInput, Unavailable
from coriolis.rpc.tls import TlsFiles
from tests.unit.agent.pair import Lab, Loopback, agent

RTT_S = 0.01


async def measured() -> float:
    return RTT_S


Tls = dict[str, TlsFiles]


def ways(tls: Tls, peer: str = "sink") -> Ways:
    return Ways(Loopback(), 7000, tls["source"], agent(peer))


@pytest.mark.parametrize("wanted", TRANSPORTS)
def test_a_transport_is_asked_for_by_name(wanted: Transport) -> None:
    assert wanted_transport({"transport": wanted}) == wanted


def test_nothing_asked_for_is_auto_and_an_unknown_one_is_refused() -> None:
    assert wanted_transport({}) == "auto"
    for unknown in ("tcp", "", None, 7, ["grpc"]):
        with pytest.raises(InvalidInput, match="transport"):
            wanted_transport({"transport": unknown})


@pytest.mark.parametrize(("wanted", "found"), [("auto", "direct"), ("direct", "direct"), ("grpc", "grpc")])
async def test_direct_where_its_port_answers(
    lab: Callable[[int], Lab], tls: Tls, wanted: Transport, found: str
) -> None:
    async with lab(1).sink() as (_, port), lab(1).source(port, b"x") as source:
        direct_port = await _direct_port(source)
        route = await choose_route(wanted, ways(tls), Offer(direct_port), measured())
    assert (route.transport, route.rtt_s, route.peer) == (found, RTT_S, agent("sink"))
    assert route.addresses == (f"127.0.0.1:{direct_port if found == 'direct' else 7000}",)


async def _direct_port(source: object) -> int:
    """As the sink told it."""
    from coriolis.rpc.gen.coriolis.v1 import transfer_pb2_grpc

    async with source._wiring.open_control() as control:  # type: ignore[attr-defined]
        opened = await source._open(transfer_pb2_grpc.TransferServiceStub(control))  # type: ignore[attr-defined]
    return int(opened.direct_port)


async def test_a_sink_without_a_direct_port_is_reached_by_grpc(tls: Tls) -> None:
    for wanted in ("auto", "grpc"):
        assert (await choose_route(wanted, ways(tls), Offer(0), measured())).transport == "grpc"
    with pytest.raises(Unavailable, match="no port"):
        await choose_route("direct", ways(tls), Offer(0), measured())


async def test_grpc_lanes_go_to_the_further_ports_that_answer(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        open_port, closed_port = one.getsockname()[1], other.getsockname()[1]
        other.close()
        route = await choose_route("grpc", ways(tls), Offer(0, (open_port, closed_port)), measured())
        assert route.addresses == (f"127.0.0.1:{open_port}",)
        route = await choose_route("grpc", ways(tls), Offer(0, (closed_port,)), measured())
        assert route.addresses == ("127.0.0.1:7000",), "the one port of the sink"


async def test_a_port_that_nobody_listens_on_leaves_grpc_unless_direct_was_asked_for(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert (await choose_route("auto", ways(tls), Offer(port), measured())).transport == "grpc"
    with pytest.raises(Unavailable):
        await choose_route("direct", ways(tls), Offer(port), measured())


async def test_somebody_elses_port_is_no_way(lab: Callable[[int], Lab], tls: Tls) -> None:
    async with lab(1).sink() as (_, port), lab(1).source(port, b"x") as source:
        direct_port = await _direct_port(source)
        assert (await choose_route("auto", ways(tls, "stranger"), Offer(direct_port), measured())).transport == "grpc"
        with pytest.raises(Denied):
            await choose_route("direct", ways(tls, "stranger"), Offer(direct_port), measured())
    assert issubclass(Denied, CoriolisError)
