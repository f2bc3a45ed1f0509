"""TransferService of a sink task: one server per task, mTLS, open to exactly one source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

from coriolis.agent.data_port import PortRange, bind_server
from coriolis.agent.sink_disk import SinkDisk
from coriolis.errors import Denied, InvalidInput, StaleGeneration
from coriolis.rpc.channel import DATA_MESSAGE_BYTES
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2_grpc
from coriolis.rpc.identity import Role, peer_identity
from coriolis.rpc.interceptors import AccessInterceptor, MethodPolicy
from coriolis.rpc.server import build_server
from coriolis.rpc.tls import TlsFiles

PUSH_METHOD = "/coriolis.v1.TransferService/Push"
DISK_KEY = "coriolis-disk"
GENERATION_KEY = "coriolis-generation"

Context = grpc.aio.ServicerContext[Any, Any]


class TransferServicer(transfer_pb2_grpc.TransferServiceServicer):
    """Serves the disks of one task to the one identity named in the assignment."""

    def __init__(self, disks: Mapping[str, SinkDisk], allowed_identity: str) -> None:
        self._disks = disks
        self._allowed = allowed_identity

    def _disk(self, context: Context, disk_id: str) -> SinkDisk:
        if str(peer_identity(context)) != self._allowed:
            raise Denied("this sink was assigned another source")
        try:
            return self._disks[disk_id]
        except KeyError as unknown:
            raise InvalidInput(f"disk {disk_id[:64]!r} is not part of this task") from unknown

    async def OpenDisk(self, request: pb.OpenDiskRequest, context: Context) -> pb.OpenDiskResponse:
        return await asyncio.to_thread(self._disk(context, request.disk_id).open, request)

    async def CompareCells(self, request: pb.CompareCellsRequest, context: Context) -> pb.CompareCellsResponse:
        return await self._disk(context, request.disk_id).compare(request)

    async def SealDisk(self, request: pb.SealDiskRequest, context: Context) -> pb.SealDiskResponse:
        return await self._disk(context, request.disk_id).seal(request)

    async def push(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Raw frames in, acks out; ends when the source ends its side."""
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        disk = self._disk(context, metadata.get(DISK_KEY, ""))
        if metadata.get(GENERATION_KEY) != str(disk.generation):
            raise StaleGeneration("the stream belongs to a replaced attempt")
        lane = disk.add_lane()
        # no TaskGroup around a yield: it would cancel gRPC's own task, and the reason would never reach the source
        pump = asyncio.create_task(_pump(messages, disk, lane))
        try:
            while (ack := await lane.get()) is not None:
                yield ack
            await pump
        finally:
            disk.drop_lane(lane)
            pump.cancel()
            await asyncio.wait([pump])


async def _pump(messages: AsyncIterator[bytes], disk: SinkDisk, lane: asyncio.Queue[bytes | None]) -> None:
    try:
        async for message in messages:
            # the ack queue is bounded by the source's window: it sends no more than that unacknowledged
            lane.put_nowait(await disk.take(message))
    finally:
        lane.put_nowait(None)


async def start_listener(
    tls: TlsFiles,
    bind_host: str,
    disks: Mapping[str, SinkDisk],
    allowed_identity: str,
    ports: PortRange | None = None,
) -> tuple[grpc.aio.Server, int]:
    """A started server on a free port of ``bind_host`` (of ``ports``, if given), and that port."""
    roles: dict[str, tuple[Role, ...]] = {"/coriolis.v1.TransferService/": ("agent",)}
    policy = MethodPolicy(roles)
    access = AccessInterceptor(policy)
    server, port = bind_server(
        bind_host, ports, lambda at: build_server(at, tls, [access], max_message_bytes=DATA_MESSAGE_BYTES)
    )
    servicer = TransferServicer(disks, allowed_identity)
    transfer_pb2_grpc.add_TransferServiceServicer_to_server(servicer, server)
    push = grpc.stream_stream_rpc_method_handler(servicer.push)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("coriolis.v1.TransferService", {"Push": push}),)
    )
    await server.start()
    return server, port
