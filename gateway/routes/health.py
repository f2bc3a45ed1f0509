"""``/healthz``, ``/readyz``, ``/metrics``: for load balancers and Prometheus, without a token."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from coriolis.errors import Unavailable
from coriolis.observability.metrics import Metrics
from gateway.auth import Backend

router = APIRouter(tags=["health"])

TEXT = "text/plain; charset=utf-8"
_TEXT_ANSWER = {"content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get(
    "/healthz",
    operation_id="health",
    response_class=Response,
    responses={200: {"description": "Alive", **_TEXT_ANSWER}},
)
async def health() -> Response:
    """This process answers."""
    return Response("ok\n", media_type=TEXT)


@router.get(
    "/readyz",
    operation_id="readiness",
    response_class=Response,
    responses={
        200: {"description": "A coordinator leads", **_TEXT_ANSWER},
        503: {"description": "None does; the body says why", **_TEXT_ANSWER},
    },
)
async def readiness(backend: Backend) -> Response:
    """This process can serve requests now."""
    try:
        await backend.ready()
    except Unavailable as down:
        return Response(f"{down.message}\n", 503, media_type=TEXT)
    return Response("ready\n", media_type=TEXT)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text", **_TEXT_ANSWER}},
)
async def metrics(request: Request) -> Response:
    """Counts and latencies by route template."""
    found: Metrics = request.app.state.metrics
    return Response(found.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
