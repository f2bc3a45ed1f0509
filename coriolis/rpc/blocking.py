"""Channels and servers for threads: what disk data goes through, where an event loop would only be in the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc

from coriolis.errors import CoriolisError, Unavailable
from coriolis.rpc.channel import CONTROL_MESSAGE_BYTES, channel_options
from coriolis.rpc.identity import Identity
from coriolis.rpc.server import server_options
from coriolis.rpc.status import status_of, trailing_metadata
from coriolis.rpc.tls import TlsFiles, channel_credentials, server_credentials

DATA_OPTIONS = (("grpc.http2.max_frame_size", 1 << 20),)
"""A cell in one or two HTTP/2 frames instead of 64: a few percent of the CPU time, nothing else was measurable."""


def open_blocking_channel(
    address: str, tls: TlsFiles, expected_identity: Identity | str, *, max_message_bytes: int = CONTROL_MESSAGE_BYTES
) -> grpc.Channel:
    """A channel with a connection of its own to exactly ``expected_identity``; as ``channel.open_channel``."""
    options = channel_options(expected_identity, None, max_message_bytes, True, DATA_OPTIONS)
    return grpc.secure_channel(address, channel_credentials(tls), options=options)


def abort_with(context: grpc.ServicerContext, error: CoriolisError) -> NoReturn:
    """End a call with ``error``."""
    context.set_trailing_metadata(trailing_metadata(error))
    context.abort(status_of(error), error.message)
    raise AssertionError("abort returned")


def build_blocking_server(
    address: str, tls: TlsFiles, pool: ThreadPoolExecutor, *, max_calls: int, max_message_bytes: int
) -> tuple[grpc.Server, int]:
    """A server bound to ``address``, not started, and its port; every call takes a thread of ``pool`` while it lasts.

    The caller checks identities: no interceptor does. Unavailable if the address is taken.
    """
    server = grpc.server(
        pool, options=server_options(max_message_bytes, DATA_OPTIONS), maximum_concurrent_rpcs=max_calls
    )
    try:
        port = server.add_secure_port(address, server_credentials(tls))
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {address}; it may be in use") from error
    return server, port
