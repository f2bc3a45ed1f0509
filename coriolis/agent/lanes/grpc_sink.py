"""gRPC lanes of a sink's host: a server of its own in each process, that takes frames and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from coriolis.agent.data_port import PortRange, bind_server
from coriolis.agent.lanes.grpc_lane import DISK_KEY, GENERATION_KEY, PUSH_METHOD
from coriolis.agent.lanes.sink_host import MAX_CONNECTIONS, SinkHost
from coriolis.errors import CoriolisError, Corrupt, InvalidInput, Unavailable
from coriolis.rpc.blocking import abort_with, build_blocking_server
from coriolis.rpc.channel import DATA_MESSAGE_BYTES
from coriolis.rpc.identity import peer_identity
from coriolis.rpc.tls_files import TlsFiles
from coriolis.transfer.codec import Frame, decode


def serve_grpc_lanes(host: SinkHost, tls: TlsFiles, bind_host: str, ports: tuple[int, int]) -> int:
    """The port on which ``host`` takes gRPC lanes from now on; 0 when none of ``ports`` is free."""

    def push(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
            disk = host.disk_for(str(peer_identity(context)), metadata.get(DISK_KEY, ""), _generation(metadata))
            host.take_frames((decode_or_end(message) for message in messages), disk)
        except CoriolisError as refused:
            abort_with(context, refused)
        return b""

    pool = ThreadPoolExecutor(MAX_CONNECTIONS, thread_name_prefix="lane")
    wanted = PortRange(*ports) if ports[0] else None
    try:
        server, port = bind_server(
            bind_host,
            wanted,
            lambda at: build_blocking_server(
                at, tls, pool, max_calls=MAX_CONNECTIONS, max_message_bytes=DATA_MESSAGE_BYTES
            ),
        )
    except Unavailable:
        return 0
    handler: Any = grpc.stream_unary_rpc_method_handler(push)
    service, _, method = PUSH_METHOD.strip("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.start()
    # gRPC ends a server that nobody holds any more
    host.keep(server)
    return port


def decode_or_end(message: bytes) -> Frame:
    """The frame. A damaged header does not say which cell to send again: the lane ends, as with ``direct``."""
    try:
        return decode(message)
    except Corrupt as damaged:
        raise Unavailable(f"the lane ends: {damaged.message}") from damaged


def _generation(metadata: dict[str, str]) -> int:
    try:
        return int(metadata.get(GENERATION_KEY, ""))
    except ValueError as wrong:
        raise InvalidInput("a lane says no generation") from wrong
