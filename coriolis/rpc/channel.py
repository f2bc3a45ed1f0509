"""Client channels of the mesh: mTLS, and a peer that is proved to be the one meant."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from coriolis.errors import InvalidInput
from coriolis.rpc.identity import MESH_DNS_NAME, Identity, Role, identity_dns_name, role_dns_name
from coriolis.rpc.tls import TlsFiles, channel_credentials

CONTROL_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest control message either side accepts."""
DATA_MESSAGE_BYTES = 2 * 1024 * 1024 + 64 * 1024
"""Largest data frame: a 2 MiB chunk and its header."""

KEEPALIVE_S = 10
KEEPALIVE_TIMEOUT_S = 5

Options = Sequence[tuple[str, str | int]]


def open_channel(
    address: str,
    tls: TlsFiles,
    expected_identity: Identity | str | None = None,
    *,
    expected_role: Role | None = None,
    max_message_bytes: int = CONTROL_MESSAGE_BYTES,
    own_connection: bool = False,
    options: Options = (),
) -> grpc.aio.Channel:
    """A channel to ``address`` (host:port); it connects on first use and reconnects by itself.

    With ``expected_identity`` only a server with exactly that SPIFFE identity passes the handshake, with
    ``expected_role`` any server of that role, with neither any member of the mesh; everyone else gives
    UNAVAILABLE. ``own_connection`` keeps gRPC from sharing one TCP connection between channels to the same
    address (lanes). The certificate is read once: open a new channel after a renewal.
    """
    return grpc.aio.secure_channel(
        address,
        channel_credentials(tls),
        options=channel_options(expected_identity, expected_role, max_message_bytes, own_connection, options),
    )


def channel_options(
    expected_identity: Identity | str | None,
    expected_role: Role | None,
    max_message_bytes: int,
    own_connection: bool,
    options: Options = (),
) -> list[tuple[str, str | int]]:
    """Options of every channel of the mesh; arguments as for ``open_channel``."""
    if expected_identity is not None and expected_role is not None:
        raise InvalidInput("expected_identity and expected_role exclude each other")
    name = MESH_DNS_NAME
    if expected_identity is not None:
        # Parsed so that a typing error fails here and not as an unexplained handshake failure.
        name = identity_dns_name(Identity.parse(str(expected_identity)))
    elif expected_role is not None:
        name = role_dns_name(expected_role)
    return [
        ("grpc.ssl_target_name_override", name),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 2000),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # A proxy of the environment must never see mesh traffic.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.use_local_subchannel_pool", int(own_connection)),
        *options,
    ]
