"""Servers of the mesh: mTLS with required client certificates, bounded messages and streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from coriolis.errors import Unavailable
from coriolis.rpc.channel import CONTROL_MESSAGE_BYTES, KEEPALIVE_S, KEEPALIVE_TIMEOUT_S, Options
from coriolis.rpc.tls import TlsFiles, server_credentials

MAX_STREAMS_PER_CONNECTION = 256
MIN_PING_INTERVAL_S = 5
assert MIN_PING_INTERVAL_S < KEEPALIVE_S, "our own channels' pings would be punished"


def build_server(
    address: str,
    tls: TlsFiles,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]],
    *,
    max_message_bytes: int = CONTROL_MESSAGE_BYTES,
    options: Options = (),
) -> tuple[grpc.aio.Server, int]:
    """A server bound to ``address`` (host:port; port 0 chooses one), not started, and its port.

    Add servicers, then ``await server.start()``. The caller owns it and awaits ``stop``. Unavailable if the
    address is taken.
    """
    server = grpc.aio.server(
        interceptors=list(interceptors),
        options=server_options(max_message_bytes, options),
    )
    try:
        port = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address}; it may be in use") from error
    return server, port


def server_options(max_message_bytes: int, options: Options = ()) -> list[tuple[str, str | int]]:
    """Options of every server of the mesh."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_S * 1000),
        # Two servers on one port would share callers at random.
        ("grpc.so_reuseport", 0),
        *options,
    ]
