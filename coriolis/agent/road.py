"""How the connections of a source reach its sink: dialled, or by way of an agent where both meet.

TLS runs between source and sink whatever the road; these modules move opaque bytes (``coriolis/agent/relay.py``).
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import structlog

from coriolis.agent.assignment import TaskContext
from coriolis.agent.byte_copy import connect_to, copy_both_ways, receive_exactly, tune
from coriolis.agent.data_port import bind_data_socket, join_address, local_host, split_address
from coriolis.agent.loop_thread import LoopThread
from coriolis.agent.preface import GO, CallerRole, Preface, Service, encode_preface
from coriolis.errors import InvalidInput, Unavailable

log = structlog.get_logger(__name__)

ServiceName = Literal["grpc", "direct"]

PARKED = 4
"""Connections that a sink keeps waiting where both meet; each one used is replaced at once."""
MAX_JOINED = 512
GO_TIMEOUT_S = 15.0
"""The other side may have to open a connection first."""
RETRY_MIN_S = 0.1
RETRY_MAX_S = 3.0
MAX_FORWARDED = 512
DRAIN_S = 2.0
LOOPBACK = "127.0.0.1"

_NUMBERS: dict[str, Service] = {"grpc": Service.GRPC, "direct": Service.DIRECT}


class SourceRoad:
    """A source's way to its sink. ``path``: dialled, reverse or relay."""

    def __init__(self, path: str, peer_address: str, meeting: str, key: bytes, thread: LoopThread | None) -> None:
        self.path = path
        self._peer_address = peer_address
        self._meeting = meeting
        self._key = key
        self._thread = thread
        self._forwarders: dict[str, int] = {}

    def address(self, service: ServiceName, port: int) -> str:
        """host:port to dial for that service of the sink, which listens for it on ``port``.

        Of the sink itself when dialled; else a forwarder on loopback, made on first use.
        """
        if self._thread is None:
            return join_address(split_address(self._peer_address)[0], port)
        if service not in self._forwarders:
            listener = bind_data_socket(LOOPBACK, None)
            self._forwarders[service] = listener.getsockname()[1]
            self._thread.start(self._forward(listener, _NUMBERS[service]))
        return join_address(LOOPBACK, self._forwarders[service])

    async def _forward(self, listener: socket.socket, service: Service) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(MAX_FORWARDED)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await room.acquire()
                    try:
                        connection, _ = await loop.sock_accept(listener)
                        tune(connection)
                    except OSError as failed:  # out of descriptors, or the caller was gone already
                        log.warning("connection not accepted", reason=failed.strerror)
                        room.release()
                        await asyncio.sleep(RETRY_MIN_S)
                        continue
                    task = group.create_task(self._join(connection, service))
                    task.add_done_callback(lambda _: room.release())
        finally:
            listener.close()

    async def _join(self, local: socket.socket, service: Service) -> None:
        """The caller sees a failure as a lost connection, and knows how to repeat."""
        loop = asyncio.get_running_loop()
        far: socket.socket | None = None
        try:
            far = await connect_to(self._meeting)
            await loop.sock_sendall(far, encode_preface(Preface(CallerRole.DIALLER, service, self._key)))
            async with asyncio.timeout(GO_TIMEOUT_S):
                if await receive_exactly(far, 1) != GO:
                    raise Unavailable(f"{self._meeting} is not the data port of an agent")
            await copy_both_ways(local, far)
        except (OSError, TimeoutError, Unavailable) as failed:
            log.info("no way to the sink", path=self.path, meeting=self._meeting, reason=str(failed))
        finally:
            local.close()
            if far is not None:
                far.close()


@asynccontextmanager
async def open_road(context: TaskContext) -> AsyncIterator[SourceRoad]:
    """The road of a source's assignment; its forwarders live as long as the context."""
    order = context.assignment.road
    if order.path == "dialled":
        yield SourceRoad(order.path, context.assignment.peer_address, "", b"", None)
        return
    # in reverse, both meet at the source's own agent, which may not reach itself under its public address
    meeting = context.workplace.meeting_address if order.path == "reverse" else order.relay_address
    if not meeting:
        raise InvalidInput(f"path {order.path} needs a data port where both sides meet, and none was named")
    with LoopThread("road") as thread:
        yield SourceRoad(order.path, context.assignment.peer_address, meeting, order.relay_key, thread)


@asynccontextmanager
async def offer_road(context: TaskContext, ports: Mapping[ServiceName, int]) -> AsyncIterator[None]:
    """Be reachable for the source: keep outbound connections parked where both meet. Nothing to do when dialled.

    ``ports``: where this sink's services listen on ``bind_host``.
    """
    order = context.assignment.road
    if order.path == "dialled":
        yield
        return
    if not order.relay_address:
        raise InvalidInput(f"path {order.path} needs a data port where both sides meet, and none was named")
    host = local_host(context.workplace.bind_host)
    services = {_NUMBERS[name]: join_address(host, port) for name, port in ports.items()}
    with LoopThread("road") as thread:
        parking = _Parking(order.relay_address, order.relay_key, services)
        thread.start(parking.serve())
        yield
        # what was said last is still on its way; cutting it would look like a failure at the other end
        deadline = time.monotonic() + DRAIN_S
        while parking.joined and time.monotonic() < deadline:  # noqa: ASYNC110 - it lives in another thread
            await asyncio.sleep(0.01)


class _Parking:
    """Keeps PARKED connections waiting; each that is used is joined with the service it was used for."""

    def __init__(self, meeting: str, key: bytes, services: Mapping[Service, str]) -> None:
        self._meeting = meeting
        self._key = key
        self._services = services
        self._room = asyncio.Semaphore(MAX_JOINED)
        self.joined = 0
        """Connections of the source that are open now."""

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(PARKED):
                group.create_task(self._keep_parked(group))

    async def _keep_parked(self, group: asyncio.TaskGroup) -> None:
        wait, told = RETRY_MIN_S, ""
        while True:
            await self._room.acquire()
            parked: socket.socket | None = None
            try:
                parked = await self._park()
                service = Service((await receive_exactly(parked, 1))[0])
            except (OSError, Unavailable, ValueError) as failed:
                self._room.release()
                if parked is not None:
                    parked.close()
                if str(failed) != told:
                    told = str(failed)
                    log.info("not parked, trying again", meeting=self._meeting, reason=told)
                # jitter: all parked connections of a relay that restarts come back at once
                await asyncio.sleep(wait * random.uniform(0.5, 1.5))
                wait = min(RETRY_MAX_S, wait * 2)
            except asyncio.CancelledError:
                if parked is not None:
                    parked.close()
                raise
            else:
                wait, told = RETRY_MIN_S, ""
                group.create_task(self._join(parked, service)).add_done_callback(lambda _: self._room.release())

    async def _park(self) -> socket.socket:
        connection = await connect_to(self._meeting)
        try:
            preface = encode_preface(Preface(CallerRole.PARKER, Service.ANY, self._key))
            await asyncio.get_running_loop().sock_sendall(connection, preface)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _join(self, far: socket.socket, service: Service) -> None:
        local: socket.socket | None = None
        self.joined += 1
        try:
            address = self._services.get(service)
            if address is None:
                raise Unavailable(f"this sink has no service {service.name}")
            local = await connect_to(address)
            await copy_both_ways(local, far)
        except (OSError, Unavailable) as failed:
            log.info("connection of the source not joined", reason=str(failed))
        finally:
            self.joined -= 1
            far.close()
            if local is not None:
                local.close()
