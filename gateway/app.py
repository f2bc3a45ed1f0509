"""Wires a gateway: the only place that knows all of its parts."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response

from coriolis import __version__
from coriolis.errors import CoriolisError, InvalidInput, Unauthenticated, Unavailable
from coriolis.observability.metrics import Metrics
from coriolis.rpc.leader import LeaderClient
from coriolis.rpc.tls import TlsFiles
from gateway.backend import MeshBackend
from gateway.edge import Edge, add_standard_headers
from gateway.embedded_identity import EmbeddedIdentity
from gateway.identity import Delegator, TokenValidator
from gateway.problems import RESOURCE_NOT_FOUND, UNEXPECTED, from_error, problem, unauthorized, validation_message
from gateway.routes import (
    events,
    health,
    identity,
    inspections,
    limits,
    links,
    manifests,
    migrations,
    secrets,
    services,
    surveys,
)
from gateway.settings import GatewayConfig
from gateway.tokens import TokenSigner

log = structlog.get_logger(__name__)

STOP_GRACE_S = 3
KEEP_ALIVE_S = 30
MAX_CONNECTIONS = 1024
BACKLOG = 256
DESCRIPTION = "Migrate virtual machines between clouds. Errors, deviations and examples: docs/api.md."


def build_app(
    settings: GatewayConfig, backend: MeshBackend, validator: TokenValidator, delegator: Delegator | None = None
) -> FastAPI:
    """The application. With the embedded identity as validator it also serves ``/v3``."""
    keystone = settings.keystone if settings.auth == "keystone" else None
    identity_url = keystone.auth_url if keystone else f"{settings.base_url()}/v3"
    app = FastAPI(
        title="Coriolis",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics()
    app.state.backend = backend
    app.state.identity = validator
    app.state.delegator = delegator
    app.state.base_url = settings.base_url()
    app.state.streams = events.StreamCount()
    app.state.metrics = metrics
    for router in (
        events.router,
        migrations.router,
        manifests.router,
        inspections.router,
        surveys.router,
        services.router,
        secrets.router,
        limits.router,
        links.router,
        health.router,
    ):
        app.include_router(router)
    if isinstance(validator, EmbeddedIdentity):
        app.include_router(identity.router)
    _describe_failures(app, identity_url)
    app.add_middleware(Edge, identity=validator, identity_url=identity_url, metrics=metrics)
    _without_default_422(app)
    return app


def _describe_failures(app: FastAPI, identity_url: str) -> None:
    """Every exception becomes the error form."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, CoriolisError)
        if isinstance(error, Unauthenticated):
            return unauthorized(identity_url)
        return from_error(error)

    async def malformed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(400, validation_message(error.errors()))

    async def of_routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {404: RESOURCE_NOT_FOUND, 405: "The method is not allowed for this resource."}
        return problem(error.status_code, messages.get(error.status_code, str(error.detail)), error.headers)

    async def unexpected(request: Request, error: Exception) -> Response:
        answer = problem(500, UNEXPECTED)
        # made outside of the edge, which adds these to every other answer
        add_standard_headers(MutableHeaders(scope={"headers": answer.raw_headers}), request.state.request_id)
        return answer

    app.add_exception_handler(CoriolisError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, of_routing)
    app.add_exception_handler(Exception, unexpected)


def _without_default_422(app: FastAPI) -> None:
    """FastAPI documents a 422 of a form that is never sent here."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the document


def make_server(app: FastAPI, config: GatewayConfig) -> uvicorn.Server:
    """The HTTP server for ``app``, bounded in connections and waiting time, not started."""
    host, port = config.address()
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            backlog=BACKLOG,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_GRACE_S,
        )
    )


async def serve(config: GatewayConfig) -> None:
    """Run a gateway until it is cancelled; open requests then get 3 s. Raises InvalidInput for broken files,
    Unavailable when the address is taken.
    """
    validator, delegator = _identity(config)
    backend = MeshBackend(LeaderClient(config.coordinators, TlsFiles.in_directory(Path(config.tls_dir))))
    log.info("gateway starts", address=config.listen, coordinators=config.coordinators)
    server = make_server(build_app(config, backend, validator, delegator), config)
    # signals are the caller's: it cancels this
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(_run(server, config.listen), name="http-server")
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.should_exit = True
        await running
        raise
    finally:
        await backend.close()


def _identity(config: GatewayConfig) -> tuple[TokenValidator, Delegator | None]:
    """Raises InvalidInput, also when Keystone is wanted without its libraries."""
    if config.auth == "embedded":
        signer = TokenSigner.from_key_file(Path(config.token_key_file))
        return EmbeddedIdentity(Path(config.users_file), signer, config.token_ttl_s), None
    assert config.keystone is not None, "checked by the configuration"
    try:
        from coriolis.keystone.service_account import ServiceAccount
        from gateway.keystone_identity import KeystoneIdentity
    except ModuleNotFoundError as missing:
        raise InvalidInput(f'auth = "keystone": {missing}; install coriolis-mesh[openstack]') from missing
    keystone = KeystoneIdentity(ServiceAccount(config.keystone))
    return keystone, keystone


async def _run(server: uvicorn.Server, listen: str) -> None:
    try:
        await server.serve()
    except SystemExit as refused:  # how uvicorn says that it cannot listen
        raise Unavailable(f"cannot listen on {listen}; is another gateway running there?") from refused
