"""TransferService of a sink task: one blocking gRPC server and one TLS port per task, open to exactly one source.

Blocking, because lanes are: a frame is checked and written in the thread that received it. Control calls go over to the
task's event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import grpc
import structlog

from coriolis.agent.data_port import PortRange, bind_data_socket, bind_server
from coriolis.agent.lanes.grpc_lane import ACKS_METHOD, DISK_KEY, GENERATION_KEY, PUSH_METHOD
from coriolis.agent.lanes.grpc_sink import decode_or_end
from coriolis.agent.sink_disk import SinkDisk
from coriolis.errors import CoriolisError, Denied, InvalidInput, StaleGeneration, Unavailable
from coriolis.rpc.blocking import abort_with, build_blocking_server
from coriolis.rpc.channel import DATA_MESSAGE_BYTES
from coriolis.rpc.gen.coriolis.v1 import transfer_pb2 as pb
from coriolis.rpc.identity import peer_identity
from coriolis.rpc.interceptors import INTERNAL_ERROR_TEXT
from coriolis.rpc.tls import TlsFiles

log = structlog.get_logger(__name__)

MAX_THREADS = 160
"""Calls served at once: lanes, streams of acks, control calls of a task's disks."""
CALL_TIMEOUT_S = 600.0
PEER_CERTIFICATE = "x509_pem_cert"

Answer = TypeVar("Answer")
Context = grpc.ServicerContext
OnOpened = Callable[[SinkDisk], None]


class TransferServicer:
    """Serves the disks of one task to the one identity named in the assignment. Methods run in threads of gRPC."""

    def __init__(
        self, disks: Mapping[str, SinkDisk], allowed_identity: str, direct_port: int, on_opened: OnOpened
    ) -> None:
        self._disks = disks
        self._allowed = allowed_identity
        self._direct_port = direct_port
        self._on_opened = on_opened
        self.lane_ports: list[int] = []
        """Of the processes that take gRPC lanes; without any, lanes come to this server."""
        self._loop = asyncio.get_running_loop()

    def _disk(self, context: Context, disk_id: str) -> SinkDisk:
        if str(peer_identity(context)) != self._allowed:
            raise Denied("this sink was assigned another source")
        try:
            return self._disks[disk_id]
        except KeyError as unknown:
            raise InvalidInput(f"disk {disk_id[:64]!r} is not part of this task") from unknown

    def _in_loop(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(CALL_TIMEOUT_S)

    def open_disk(self, request: pb.OpenDiskRequest, context: Context) -> pb.OpenDiskResponse:
        disk = self._disk(context, request.disk_id)
        answer = disk.open(request)
        self._in_loop(self._tell_opened(disk))
        answer.direct_port = self._direct_port
        answer.lane_ports.extend(self.lane_ports)
        return answer

    async def _tell_opened(self, disk: SinkDisk) -> None:
        self._on_opened(disk)

    def compare_cells(self, request: pb.CompareCellsRequest, context: Context) -> pb.CompareCellsResponse:
        return self._in_loop(self._disk(context, request.disk_id).compare(request))

    def seal_disk(self, request: pb.SealDiskRequest, context: Context) -> pb.SealDiskResponse:
        disk = self._disk(context, request.disk_id)
        # gRPC gives only the peer's own certificate, without a chain: enough to compare keys
        shown = next(iter(context.auth_context().get(PEER_CERTIFICATE, ())), b"")
        return self._in_loop(disk.seal(request, bytes(shown)))

    def acks(self, request: pb.AcksRequest, context: Context) -> Iterator[bytes]:
        """Raw ack frames until the source goes or the disk fails."""
        disk = self._disk(context, request.disk_id)
        disk.check_generation(request.generation)
        listener = self._in_loop(_listen(disk))
        context.add_callback(lambda: listener.put(None))
        try:
            while (message := listener.get()) is not None:
                if isinstance(message, CoriolisError):
                    raise message
                yield message
        finally:
            self._loop.call_soon_threadsafe(disk.drop_listener, listener)

    def push(self, messages: Iterator[bytes], context: Context) -> bytes:
        """Raw frames in, nothing out; ends when the source ends its side."""
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        disk = self._disk(context, metadata.get(DISK_KEY, ""))
        if metadata.get(GENERATION_KEY) != str(disk.generation):
            raise StaleGeneration("the stream belongs to a replaced attempt")
        for message in messages:
            disk.take_here(decode_or_end(message))
        return b""


async def _listen(disk: SinkDisk) -> Any:
    return disk.listen()


def _guarded(method: Callable[[Any, Context], Answer]) -> Callable[[Any, Context], Answer]:
    def call(request: Any, context: Context) -> Answer:
        try:
            return method(request, context)
        except Exception as error:  # noqa: BLE001 - the outermost frame of every call
            _abort(method.__name__, context, error)

    return call


def _guarded_stream(method: Callable[[Any, Context], Iterator[bytes]]) -> Callable[[Any, Context], Iterator[bytes]]:
    def call(request: Any, context: Context) -> Iterator[bytes]:
        try:
            yield from method(request, context)
        except Exception as error:  # noqa: BLE001 - the outermost frame of every call
            _abort(method.__name__, context, error)

    return call


def _abort(method: str, context: Context, error: Exception) -> NoReturn:
    if not isinstance(error, CoriolisError):
        if context.is_active():  # a broken stream ends its iterator with an error of gRPC's own
            log.error("call failed unexpectedly", method=method, exc_info=error)
        error = CoriolisError(INTERNAL_ERROR_TEXT)
    abort_with(context, error)


class Listener:
    """Started servers: gRPC on ``port``, accepted ``direct`` connections through ``on_connection``."""

    def __init__(
        self, server: grpc.Server, port: int, servicer: TransferServicer, direct: socket.socket | None
    ) -> None:
        self._server, self.port, self._servicer, self._direct = server, port, servicer, direct
        self.direct_port = _port_of(direct)

    def lanes_on(self, ports: list[int]) -> None:
        """Tell sources of more ports for gRPC lanes."""
        self._servicer.lane_ports = [port for port in ports if port]

    async def accept_direct(self, take: Callable[[socket.socket], None]) -> None:
        """Hand every connection on, until cancelled."""
        if self._direct is None:
            return
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._direct)
            connection.setblocking(True)
            take(connection)

    async def stop(self, grace_s: float) -> None:
        """Finish calls that are running within ``grace_s``, end the rest. Again is harmless."""
        if self._direct is not None:
            self._direct.close()
        await asyncio.to_thread(self._server.stop(grace_s).wait)


def start_listener(
    tls: TlsFiles,
    bind_host: str,
    disks: Mapping[str, SinkDisk],
    allowed_identity: str,
    on_opened: OnOpened = lambda disk: None,
    ports: PortRange | None = None,
) -> Listener:
    """Servers on free ports of ``bind_host`` (of ``ports``, if given). Call it in the disks' event loop."""
    pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="transfer")
    server, port = bind_server(
        bind_host,
        ports,
        lambda at: build_blocking_server(at, tls, pool, max_calls=MAX_THREADS, max_message_bytes=DATA_MESSAGE_BYTES),
    )
    try:
        direct = bind_data_socket(bind_host, ports)
    except Unavailable as taken:
        log.info("no second port for the direct transport", reason=taken.message)
        direct = None
    servicer = TransferServicer(disks, allowed_identity, _port_of(direct), on_opened)
    handlers = {
        "OpenDisk": _unary(servicer.open_disk, pb.OpenDiskRequest),
        "CompareCells": _unary(servicer.compare_cells, pb.CompareCellsRequest),
        "SealDisk": _unary(servicer.seal_disk, pb.SealDiskRequest),
        _name(PUSH_METHOD): grpc.stream_unary_rpc_method_handler(_guarded(servicer.push)),
        _name(ACKS_METHOD): grpc.unary_stream_rpc_method_handler(
            _guarded_stream(servicer.acks), request_deserializer=pb.AcksRequest.FromString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("coriolis.v1.TransferService", handlers),))
    server.start()
    return Listener(server, port, servicer, direct)


def _unary(method: Callable[[Any, Context], Any], request: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        _guarded(method),
        request_deserializer=request.FromString,
        response_serializer=lambda answer: answer.SerializeToString(),
    )


def _port_of(listener: socket.socket | None) -> int:
    return 0 if listener is None else int(listener.getsockname()[1])


def _name(method: str) -> str:
    return method.rpartition("/")[2]
