"""Which transport a disk's lanes use: what the job asks for, or what a probe of the sink shows to work."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable
from typing import Literal, Protocol

import msgspec
import structlog

from coriolis.agent.data_port import join_address, split_address
from coriolis.agent.lanes.tls_stream import dial
from coriolis.agent.push_disk import Offer, Route
from coriolis.errors import CoriolisError, InvalidInput, Unavailable
from coriolis.rpc.tls import TlsFiles

log = structlog.get_logger(__name__)

Transport = Literal["auto", "grpc", "direct"]
TRANSPORTS: tuple[Transport, ...] = ("auto", "grpc", "direct")
PROBE_TIMEOUT_S = 5.0


class Road(Protocol):
    """``coriolis.agent.road.SourceRoad``: host:port to dial for a service of the sink."""

    @property
    def path(self) -> str: ...

    def address(self, service: Literal["grpc", "direct"], port: int) -> str: ...


class Ways(msgspec.Struct, frozen=True):
    """The ways to one sink: its road, the port of its gRPC server, our key material and its identity."""

    road: Road
    grpc_port: int
    tls: TlsFiles
    peer: str

    @property
    def path(self) -> str:
        return self.road.path

    def address(self, service: Literal["grpc", "direct"], direct_port: int = 0) -> str:
        return self.road.address(service, direct_port if service == "direct" else self.grpc_port)


def wanted_transport(environment: dict[str, object]) -> Transport:
    """``transport`` of the source environment, "auto" without one. Raises InvalidInput."""
    wanted = environment.get("transport", "auto")
    for known in TRANSPORTS:
        if wanted == known:
            return known
    raise InvalidInput(f"transport {wanted!r} is none of {', '.join(TRANSPORTS)}")


async def choose_route(wanted: Transport, ways: Ways, offer: Offer, rtt: Awaitable[float]) -> Route:
    """How to reach the sink; ``rtt`` is awaited meanwhile.

    ``direct`` costs less wherever its port can be reached; asked for by name, it is not replaced by anything. gRPC
    lanes go to the sink's further ports that can be reached, else to its one port. Raises Unavailable, Denied.
    """
    rtt_s, found = await asyncio.gather(rtt, _find(wanted, ways, offer))
    transport, addresses = found
    return Route(transport, addresses, ways.peer, rtt_s)


async def _find(wanted: Transport, ways: Ways, offer: Offer) -> tuple[str, tuple[str, ...]]:
    if wanted != "grpc" and offer.direct_port:
        address = ways.address("direct", offer.direct_port)
        try:
            await asyncio.to_thread(_probe, address, ways.tls, ways.peer)
            return "direct", (address,)
        except CoriolisError as unreachable:
            if wanted == "direct":
                raise
            log.info("no direct transport", address=address, reason=unreachable.message)
    elif wanted == "direct":
        raise Unavailable("the sink has no port for the direct transport: widen data_ports there")
    return "grpc", await _grpc_addresses(ways, offer.lane_ports)


async def _grpc_addresses(ways: Ways, lane_ports: tuple[int, ...]) -> tuple[str, ...]:
    """Where gRPC lanes go. A road with detours leads to the sink's one port only."""
    one = ways.address("grpc")
    if ways.path != "dialled":
        return (one,)
    host = split_address(one)[0]
    further = [join_address(host, port) for port in lane_ports]
    reached = await asyncio.gather(*(asyncio.to_thread(_answers, address) for address in further))
    return tuple(address for address, answers in zip(further, reached, strict=True) if answers) or (one,)


def _answers(address: str) -> bool:
    try:
        socket.create_connection(split_address(address), PROBE_TIMEOUT_S).close()
    except OSError as unreachable:
        log.info("no lane port", address=address, reason=str(unreachable))
        return False
    return True


def _probe(address: str, tls: TlsFiles, peer: str) -> None:
    dial(address, tls, peer, timeout_s=PROBE_TIMEOUT_S).close()
