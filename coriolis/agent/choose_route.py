"""Which transport a disk's lanes use: what the job asks for, or what a probe of the sink shows to work."""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

import msgspec
import structlog

from coriolis.agent.lanes.tls_stream import dial
from coriolis.agent.push_disk import Route
from coriolis.errors import CoriolisError, InvalidInput
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


async def choose_route(wanted: Transport, ways: Ways, direct_port: int, rtt_s: float) -> Route:
    """How to reach the sink, whose ``direct`` listener is on ``direct_port`` (0: it has none).

    ``direct`` costs less wherever its port can be reached; asked for by name, it is not replaced by anything. Raises
    Unavailable, Denied.
    """
    if wanted != "grpc" and direct_port:
        address = ways.address("direct", direct_port)
        try:
            await asyncio.to_thread(_probe, address, ways.tls, ways.peer)
            return Route("direct", address, ways.peer, rtt_s)
        except CoriolisError as unreachable:
            if wanted == "direct":
                raise
            log.info("no direct transport", address=address, reason=unreachable.message)
    return Route("grpc", ways.address("grpc"), ways.peer, rtt_s)


def _probe(address: str, tls: TlsFiles, peer: str) -> None:
    dial(address, tls, peer, timeout_s=PROBE_TIMEOUT_S).close()
