"""The first code that sees a request and the last that sees its answer.

Request ids, removal of identity headers that only a proxy in front of us could honestly set, authentication before
anything is parsed, the bounded body, ``.json`` suffixes, access log and request metrics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coriolis.errors import CoriolisError, InvalidInput, Unauthenticated
from coriolis.ids import new_id
from coriolis.observability.metrics import Metrics
from gateway.auth import authenticate
from gateway.identity import TokenValidator
from gateway.problems import RESOURCE_NOT_FOUND, Json, from_error, problem, unauthorized

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 1 << 20
BODY_TIMEOUT_S = 30.0
MAX_JSON_DEPTH = 32
MAX_PATH_CHARS = 2048
LATENCY_BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
JSON_TYPES = ("application/json",)
FORGEABLE_PREFIXES = (b"x-user", b"x-project", b"x-tenant", b"x-role", b"x-domain", b"x-identity", b"x-service")
"""What keystonemiddleware would set after validation; from outside it is only ever an attack (CVE-2026-22797)."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, identity: TokenValidator, identity_url: str, metrics: Metrics) -> None:
        self._app = app
        self._identity = identity
        self._identity_url = identity_url
        labels = ("method", "route", "code")
        self._requests: Counter = metrics.counter("gateway_requests", "Requests answered", labels)
        self._seconds: Histogram = metrics.histogram(
            "gateway_request_seconds", "Time until the answer was complete", LATENCY_BUCKETS_S, ("method", "route")
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{new_id()}"
        scope.setdefault("state", {})["request_id"] = request_id
        scope["headers"] = [pair for pair in scope["headers"] if not _forgeable(pair[0])]
        started, status = time.monotonic(), 499  # nothing sent: the client went away

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_standard_headers(MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            await self._serve(scope, receive, answer)
        finally:
            self._record(scope, request_id, status, time.monotonic() - started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = await self._admit(scope)
        if refusal is None:
            body = await _read_body(scope, receive)
            if isinstance(body, Json):
                refusal = body
            else:
                receive = _replay(body, receive)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    async def _admit(self, scope: Scope) -> Json | None:
        """Route path without suffix, authenticated caller in the scope's state; or the refusal."""
        path: str = scope["path"]
        if len(path) > MAX_PATH_CHARS:
            return problem(404, RESOURCE_NOT_FOUND)
        if path.endswith(".json") and path.startswith(("/v1/", "/v3/")):
            scope["path"] = path = path.removesuffix(".json")
        segments = path.split("/")
        if segments[1] != "v1" or len(segments) < 4:
            return None  # identity, health, and the bare catalog URL, which clients ask without a token
        try:
            caller = await authenticate(self._identity, Headers(scope=scope).get("x-auth-token"))
        except Unauthenticated:
            return unauthorized(self._identity_url)
        except CoriolisError as error:
            return from_error(error)
        if segments[2] != caller.project_id:
            return problem(404, RESOURCE_NOT_FOUND)
        scope["state"]["caller"] = caller
        return None

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        caller = scope["state"].get("caller")
        log.info(
            "request",
            request_id=request_id,
            method=method,
            route=route,
            code=status,
            seconds=round(seconds, 4),
            project_id=caller.project_id if caller else "",
            user_id=caller.user_id if caller else "",
        )


def add_standard_headers(headers: MutableHeaders, request_id: str) -> None:
    """The request id under both of its names; nothing of an answer may be cached or guessed at."""
    headers["x-compute-request-id"] = request_id
    headers["x-openstack-request-id"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")


def _forgeable(name: bytes) -> bool:
    return name.lower().replace(b"_", b"-").startswith(FORGEABLE_PREFIXES)


async def _read_body(scope: Scope, receive: Receive) -> bytes | Json:
    """The whole body, known to be JSON that is not too large and not too deep; or the refusal."""
    headers = Headers(scope=scope)
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 12 or int(declared) > MAX_BODY_BYTES:
        return problem(413, f"The request body is larger than {MAX_BODY_BYTES} bytes")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await _collect(receive)
    except TimeoutError:
        return problem(408, f"The request body did not arrive within {BODY_TIMEOUT_S:.0f} s")
    if body is None:
        return problem(413, f"The request body is larger than {MAX_BODY_BYTES} bytes")
    content_type = headers.get("content-type")
    if not body or content_type is None or scope["method"] in ("GET", "HEAD"):
        return b""  # without a content type it counts as no body
    if content_type.split(";")[0].strip().lower() not in JSON_TYPES:
        return problem(415, "The body must be application/json")
    try:
        check_json(body)
    except InvalidInput as error:
        return from_error(error)
    return body


async def _collect(receive: Receive) -> bytes | None:
    """None when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)  # the client went away; nobody will read the answer
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def check_json(body: bytes) -> None:
    """InvalidInput unless ``body`` is strict JSON, nested at most 32 deep, that can be encoded again."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        raise InvalidInput(f"Malformed request body: {broken}") from broken
    except RecursionError as deep:
        raise InvalidInput(f"Malformed request body: nested deeper than {MAX_JSON_DEPTH}") from deep
    if _deeper(document, MAX_JSON_DEPTH):
        raise InvalidInput(f"Malformed request body: nested deeper than {MAX_JSON_DEPTH}")


def _deeper(value: object, levels: int) -> bool:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(member, levels - 1) for member in members if isinstance(member, dict | list))


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    sent = False

    async def next_message() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return next_message
