"""The members of an etcd cluster and the one in use.

One channel per member instead of one with a load-balancing policy: a member is used until it fails, which
keeps writes and watches on one connection, works with host names as well as addresses, and lets a call be
sent only on a connection that stands. So a write to a cluster that is down is known not to have happened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import grpc

from coriolis.errors import InvalidInput, Unavailable
from coriolis.rpc.gen.etcd import rpc_pb2_grpc
from coriolis.rpc.tls import TlsFiles, channel_credentials

MAX_ENDPOINTS = 16
CONNECT_TIMEOUT_S = 1.0
"""How long one member may take to accept a connection while another one could be tried."""
RECONNECT_PAUSE_S = 0.2
MAX_RECEIVE_BYTES = 32 * 1024 * 1024
"""A page of a listing: at most 500 keys, but values may be large."""

# etcd answers pings that come more often than its --grpc-keepalive-min-time (5 s) by closing the
# connection, which would make the outcome of writes in flight unknown.
KEEPALIVE_S = 6
KEEPALIVE_TIMEOUT_S = 2


class Endpoint:
    """One member: its channel and stubs. It connects on first use."""

    def __init__(self, address: str, tls: TlsFiles | None, server_name: str | None) -> None:
        self.address = address
        options: list[tuple[str, str | int]] = [
            ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if server_name is not None:
            options.append(("grpc.ssl_target_name_override", server_name))
        if tls is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, channel_credentials(tls), options=options)
        self.kv = rpc_pb2_grpc.KVStub(self.channel)
        self.lease = rpc_pb2_grpc.LeaseStub(self.channel)
        self.watch = rpc_pb2_grpc.WatchStub(self.channel)
        self.auth = rpc_pb2_grpc.AuthStub(self.channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self.channel)

    async def is_ready(self, timeout_s: float, *, wait_out_failures: bool) -> bool:
        """Whether the connection stands within ``timeout_s``.

        ``wait_out_failures`` goes on after a refused attempt: sensible when there is no other member to try.
        """
        try:
            async with asyncio.timeout(timeout_s):
                state = self.channel.get_state(try_to_connect=True)
                while state != grpc.ChannelConnectivity.READY:
                    if state == grpc.ChannelConnectivity.TRANSIENT_FAILURE and not wait_out_failures:
                        return False
                    await self.channel.wait_for_state_change(state)
                    state = self.channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True


class Endpoints:
    """All members; remembers the one that worked last."""

    def __init__(self, addresses: Sequence[str], tls: TlsFiles | None, server_name: str | None) -> None:
        if not 1 <= len(addresses) <= MAX_ENDPOINTS:
            raise InvalidInput(f"etcd needs 1 to {MAX_ENDPOINTS} endpoints, got {len(addresses)}")
        targets = [_target(address, secure=tls is not None) for address in addresses]
        self.members = [Endpoint(target, tls, server_name) for target in targets]
        self._current = 0

    async def ready(self, deadline: float) -> Endpoint:
        """A member with a standing connection; Unavailable at ``deadline`` (``time.monotonic``).

        Nothing has been sent when this fails.
        """
        alone = len(self.members) == 1
        while (left := deadline - time.monotonic()) > 0:
            first = self._current
            for step in range(len(self.members)):
                index = (first + step) % len(self.members)
                if await self.members[index].is_ready(min(CONNECT_TIMEOUT_S, left), wait_out_failures=alone):
                    self._current = index
                    return self.members[index]
            await asyncio.sleep(min(RECONNECT_PAUSE_S, left))
        names = ", ".join(member.address for member in self.members)
        raise Unavailable(f"no etcd member accepts connections: {names}")

    def leave(self, member: Endpoint) -> None:
        """Use another member from now on, unless somebody already changed."""
        if self.members[self._current] is member:
            self._current = (self._current + 1) % len(self.members)

    async def close(self) -> None:
        """Close all channels; calls in flight fail."""
        for member in self.members:
            await member.channel.close(None)


def _target(address: str, *, secure: bool) -> str:
    scheme, separator, rest = address.rpartition("://")
    if separator and (scheme not in ("http", "https") or (scheme == "https") != secure):
        raise InvalidInput(f"etcd endpoint {address!r} does not fit TLS {'on' if secure else 'off'}")
    rest = rest.rstrip("/")
    if not rest.rpartition(":")[2].isdigit():
        raise InvalidInput(f"etcd endpoint {address!r} is not host:port")
    return rest
