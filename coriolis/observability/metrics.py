"""Numbers for operators: Prometheus metrics named ``coriolis_…`` and a tiny HTTP server that shows them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from coriolis.errors import Unavailable

PREFIX = "coriolis_"
MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 8192
REQUEST_TIMEOUT_S = 5.0
TEXT = "text/plain; charset=utf-8"

_NAME = re.compile(r"[a-z][a-z0-9_]*")

Readiness = Callable[[], Sequence[str]]
"""Reasons why the process cannot serve now, one sentence each; none means ready."""


class Metrics:
    """One process's metrics. Names are given without prefix, with their unit: ``transfer_sent_bytes``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Counter:
        """A number that only grows; shown with the suffix ``_total``."""
        return Counter(_full(name), description, labels, registry=self.registry)

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Gauge:
        """A number of now."""
        return Gauge(_full(name), description, labels, registry=self.registry)

    def histogram(self, name: str, description: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        """How often which sizes or times occurred; ``buckets`` are upper bounds."""
        return Histogram(_full(name), description, labels, buckets=buckets, registry=self.registry)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


def _full(name: str) -> str:
    assert _NAME.fullmatch(name), f"metric {name!r} is not lower case with underscores"
    assert not name.startswith(PREFIX), f"metric {name!r} already has the prefix"
    return PREFIX + name


@asynccontextmanager
async def serve_metrics(host: str, port: int, metrics: Metrics, readiness: Readiness) -> AsyncIterator[int]:
    """Serve ``/metrics``, ``/healthz`` (this event loop runs) and ``/readyz`` (503 with reasons) for the
    block.

    Yields the port (0 chooses one); Unavailable if it is taken. No authentication: bind to loopback or an
    operators' network.
    """
    server = _Server(metrics, readiness)
    try:
        listening = await asyncio.start_server(server.accept, host, port, limit=MAX_REQUEST_BYTES)
    except OSError as error:
        raise Unavailable(f"cannot listen on {host}:{port} for metrics: {error.strerror}") from error
    try:
        yield int(listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await server.close()
        await listening.wait_closed()


class _Server:
    def __init__(self, metrics: Metrics, readiness: Readiness) -> None:
        self._metrics = metrics
        self._readiness = readiness
        self._open: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="metrics-request")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def close(self) -> None:
        """Cut what is open and wait for it."""
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a caller that does not speak HTTP gets nothing
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", TEXT, b"only GET\n")
        match path:
            case b"/metrics":
                return _response("200 OK", CONTENT_TYPE_LATEST, self._metrics.text())
            case b"/healthz":
                return _response("200 OK", TEXT, b"ok\n")
            case b"/readyz":
                reasons = self._readiness()
                body = "".join(f"{reason}\n" for reason in reasons) or "ready\n"
                return _response("503 Service Unavailable" if reasons else "200 OK", TEXT, body.encode())
        return _response("404 Not Found", TEXT, b"try /metrics, /healthz or /readyz\n")


def _response(status: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
