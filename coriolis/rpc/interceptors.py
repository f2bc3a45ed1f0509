"""What every servicer of the mesh stands behind: default-deny access and one mapping of errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
import structlog

from coriolis.errors import CoriolisError, Denied
from coriolis.rpc.identity import ROLES, Identity, Role, peer_identity
from coriolis.rpc.status import status_of, trailing_metadata
from coriolis.security.redact import LIVE_SECRETS

INTERNAL_ERROR_TEXT = "internal error; the server's log has the details"

_log = structlog.get_logger(__name__)

_POLICY_KEY = re.compile(r"/[\w.]+/\w*")

# Requests, responses and contexts are of whatever type the method has.
_Behavior = Callable[[Any, Any], Any]


class MethodPolicy:
    """Which roles may call which method; a method that is not listed may be called by nobody.

    Keys are services (``/coriolis.v1.JobService/``) or methods (``/coriolis.v1.JobService/GetMigration``);
    a method's own entry replaces that of its service.
    """

    def __init__(self, allowed: Mapping[str, tuple[Role, ...]]) -> None:
        for key, roles in allowed.items():
            assert _POLICY_KEY.fullmatch(key), f"{key!r} is neither a service nor a method"
            assert set(roles) <= set(ROLES), f"{key!r} names an unknown role"
        self._allowed = {key: frozenset(roles) for key, roles in allowed.items()}

    def allows(self, role: Role, method: str) -> bool:
        """``method`` is the full name, ``/package.Service/Method``."""
        service = method[: method.rfind("/") + 1]
        roles = self._allowed.get(method)
        if roles is None:
            roles = self._allowed.get(service, frozenset())
        return role in roles


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Lets a call through only if the policy allows the caller's certificate, and turns what a servicer
    raises into a status: a CoriolisError becomes its own, anything unexpected INTERNAL with a general text.
    """

    def __init__(self, policy: MethodPolicy, *, trust_domain: str | None = None) -> None:
        """With ``trust_domain`` identities of any other domain are refused too."""
        self._policy = policy
        self._trust_domain = trust_domain

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return handler
        return self._guarded(handler_call_details.method, handler)

    def _guarded(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._streaming(method, handler.stream_stream), **codec)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._single(method, handler.stream_unary), **codec)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(method, handler.unary_stream), **codec)
        return grpc.unary_unary_rpc_method_handler(self._single(method, handler.unary_unary), **codec)

    def _single(self, method: str, behavior: _Behavior) -> _Behavior:
        async def call(request: Any, context: Any) -> Any:
            try:
                self._check(method, context)
                return await behavior(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the outermost frame of every call
                await _abort(method, context, error)

        return call

    def _streaming(self, method: str, behavior: _Behavior) -> _Behavior:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self._check(method, context)
                result = behavior(request, context)
                if not hasattr(result, "__aiter__"):
                    await result  # a servicer that writes through its context
                    return
                # Closed here and now, so that its clean-up runs inside the call and not at garbage
                # collection.
                async with contextlib.aclosing(result) as responses:
                    async for response in responses:
                        yield response
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the outermost frame of every call
                await _abort(method, context, error)

        return call

    def _check(self, method: str, context: Any) -> Identity:
        peer = peer_identity(context)
        if self._trust_domain not in (None, peer.trust_domain):
            raise Denied(f"{peer} belongs to another trust domain")
        if not self._policy.allows(peer.role, method):
            _log.warning("call denied", method=method, peer=str(peer))
            raise Denied(f"role {peer.role} may not call {method}")
        return peer


async def _abort(method: str, context: Any, error: Exception) -> NoReturn:
    known = _known_error(error)
    if known is None:
        _log.error("call failed unexpectedly", method=method, exc_info=error)
        await context.abort(
            grpc.StatusCode.INTERNAL,
            INTERNAL_ERROR_TEXT,
            trailing_metadata(CoriolisError(INTERNAL_ERROR_TEXT)),
        )
    else:
        _log.info("call refused", method=method, code=known.code, error=known.message)
        await context.abort(status_of(known), LIVE_SECRETS.mask(known.message), trailing_metadata(known))
    raise AssertionError("abort returned")


def _known_error(error: BaseException) -> CoriolisError | None:
    """The CoriolisError that ``error`` is, or the first of a group of nothing else (a TaskGroup's)."""
    if isinstance(error, CoriolisError):
        return error
    if isinstance(error, BaseExceptionGroup):
        leaves = [_known_error(leaf) for leaf in error.exceptions]
        return leaves[0] if all(leaves) else None
    return None
