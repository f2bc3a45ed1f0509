"""Which transport a disk's lanes use: what the job asks for, or what a probe of the sink shows to work."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Literal

import structlog

from coriolis.agent.lanes.tls_stream import dial
from coriolis.agent.push_disk import Route
from coriolis.errors import CoriolisError, InvalidInput
from coriolis.rpc.tls import TlsFiles

log = structlog.get_logger(__name__)

Transport = Literal["auto", "grpc", "direct"]
TRANSPORTS: tuple[Transport, ...] = ("auto", "grpc", "direct")
PROBES = 2
PROBE_TIMEOUT_S = 5.0

AddressOf = Callable[[Literal["grpc", "direct"], int], str]


def wanted_transport(environment: dict[str, object]) -> Transport:
    """``transport`` of the source environment, "auto" without one. Raises InvalidInput."""
    wanted = environment.get("transport", "auto")
    for known in TRANSPORTS:
        if wanted == known:
            return known
    raise InvalidInput(f"transport {wanted!r} is none of {', '.join(TRANSPORTS)}")


async def choose_route(wanted: Transport, tls: TlsFiles, peer: str, address_of: AddressOf, direct_port: int) -> Route:
    """How to reach the sink. ``direct`` is the faster one wherever its port can be reached; asked for by name, it is
    not replaced by anything. Raises Unavailable, Denied."""
    grpc_address = address_of("grpc", 0)
    if wanted == "grpc" or not direct_port:
        return Route("grpc", grpc_address, peer, await round_trip_s(grpc_address))
    direct_address = address_of("direct", direct_port)
    try:
        await asyncio.to_thread(_probe, direct_address, tls, peer)
    except CoriolisError as unreachable:
        if wanted == "direct":
            raise
        log.info("no direct transport", address=direct_address, reason=unreachable.message)
        return Route("grpc", grpc_address, peer, await round_trip_s(grpc_address))
    return Route("direct", direct_address, peer, await round_trip_s(direct_address))


def _probe(address: str, tls: TlsFiles, peer: str) -> None:
    dial(address, tls, peer, timeout_s=PROBE_TIMEOUT_S).close()


async def round_trip_s(address: str) -> float:
    """The shorter of two TCP handshakes, seconds; 0 when none succeeds (a lane will tell why)."""
    return await asyncio.to_thread(_handshake_s, address)


def _handshake_s(address: str) -> float:
    host, _, port = address.rpartition(":")
    best = float("inf")
    for _ in range(PROBES):
        began = time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S).close()
        except OSError:
            continue
        best = min(best, time.monotonic() - began)
    return best if best < float("inf") else 0.0
