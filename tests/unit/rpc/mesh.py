"""A CA with some members, and one echo server of every method kind, for the tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from coriolis.rpc.identity import peer_identity
from coriolis.rpc.interceptors import AccessInterceptor, MethodPolicy
from coriolis.rpc.server import build_server
from coriolis.rpc.tls import TlsFiles
from coriolis.security.pki import create_ca, issue

DOMAIN = "test.mesh"
SERVICE = "/test.Echo/"


def identity(role: str, name: str) -> str:
    return f"spiffe://{DOMAIN}/{role}/{name}"


@dataclass
class Members:
    directory: Path

    def __post_init__(self) -> None:
        create_ca(self.directory / "ca", DOMAIN)

    def files(self, role: str, name: str) -> TlsFiles:
        return issue(self.directory / "ca", self.directory / role / name, identity(role, name), ["localhost"])


@dataclass
class Echo:
    """Raises ``failure`` after ``before_failure`` responses if it is set; otherwise echoes raw bytes."""

    failure: BaseException | None = None
    before_failure: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    callers: list[str] = field(default_factory=list)

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.callers.append(str(peer_identity(context)))
        if self.failure is not None:
            raise self.failure
        return request

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        if self.failure is not None:
            raise self.failure
        return b"".join([request async for request in requests])

    async def push(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        sent = 0
        async for request in requests:
            if self.failure is not None and sent == self.before_failure:
                raise self.failure
            yield request
            sent += 1

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        if self.failure is not None:
            raise self.failure
        for number in range(int(request)):
            yield str(number).encode()

    async def written(self, request: bytes, context: Any) -> None:
        await context.write(request)
        await context.write(request)

    async def hang(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    def rpc(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "test.Echo",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
                "Push": grpc.stream_stream_rpc_method_handler(self.push),
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Written": grpc.unary_stream_rpc_method_handler(self.written),
                "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
                "Unlisted": grpc.unary_unary_rpc_method_handler(self.unary),
            },
        )


POLICY = MethodPolicy(
    {SERVICE + name: ("agent",) for name in ("Unary", "Collect", "Push", "Count", "Written", "Hang", "Missing")}
)


@asynccontextmanager
async def serving(tls: TlsFiles, echo: Echo, policy: MethodPolicy = POLICY) -> AsyncIterator[str]:
    """Yields the address."""
    interceptor = AccessInterceptor(policy, trust_domain=DOMAIN)
    server, port = build_server("127.0.0.1:0", tls, [interceptor])
    server.add_generic_rpc_handlers((echo.rpc(),))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
