"""``GET /v1/{project_id}/migrations/{id}/events``: server-sent events."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from coriolis.errors import CoriolisError, Throttled
from coriolis.rpc.gen.coriolis.v1 import job_pb2
from gateway import translate
from gateway.auth import Backend, permit
from gateway.backend import TERMINAL
from gateway.identity import Caller
from gateway.problems import FAULTS, OTHER_FAULT
from gateway.routes.common import MigrationId, ProjectId, failures

router = APIRouter(prefix="/v1/{project_id}/migrations", tags=["migrations"])

KEEP_ALIVE_S = 15
MAX_STREAMS = 512
MAX_STREAMS_PER_PROJECT = 64
SEND_TIMEOUT_S = 30.0


class StreamCount:
    """Open streams of this gateway, per project."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def enter(self, project_id: str) -> None:
        """Raises Throttled when 64 of the project or 512 of all are open."""
        if self._open[project_id] >= MAX_STREAMS_PER_PROJECT or self._open.total() >= MAX_STREAMS:
            raise Throttled("too many event streams are open", retry_after_s=5)
        self._open[project_id] += 1

    def leave(self, project_id: str) -> None:
        self._open[project_id] -= 1
        if self._open[project_id] <= 0:
            del self._open[project_id]


@router.get(
    "/{migration_id}/events",
    operation_id="watch_migration",
    summary="Follow a migration",
    response_class=EventSourceResponse,
    responses={
        **failures(429),
        200: {
            "description": "Events `state` {migration_id, status, at}, `task` (a task), `disk` (bytes, throughput and "
            "ETA of one disk), `error` (the error form). Ends after the terminal state, or with the token.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    },
)
async def watch(
    request: Request,
    project_id: ProjectId,
    migration_id: MigrationId,
    backend: Backend,
    caller: Annotated[Caller, permit("migration:migrations:watch")],
) -> EventSourceResponse:
    """The state comes first and again at each change; comments keep the connection open."""
    migration = await backend.get_migration(caller.project_id, migration_id)
    streams: StreamCount = request.app.state.streams
    # counted by the generator itself, so that a client that leaves before the first event cannot leak a place
    streams.enter(caller.project_id)
    streams.leave(caller.project_id)
    events = _events(backend, caller, migration, streams)
    return EventSourceResponse(events, ping=KEEP_ALIVE_S, send_timeout=SEND_TIMEOUT_S)


async def _events(
    backend: Backend, caller: Caller, migration: job_pb2.Migration, streams: StreamCount
) -> AsyncIterator[ServerSentEvent]:
    try:
        streams.enter(caller.project_id)
    except Throttled as full:
        yield _error(full)
        return
    left_s = (caller.expires_at - datetime.now(UTC)).total_seconds()
    try:
        async with asyncio.timeout(max(0.0, left_s)), aclosing(_translated(backend, migration)) as events:
            async for event in events:
                yield event
    except TimeoutError:
        return  # the token has ended; the client comes back with a new one
    except CoriolisError as error:
        yield _error(error)
    finally:
        streams.leave(caller.project_id)


async def _translated(backend: Backend, migration: job_pb2.Migration) -> AsyncGenerator[ServerSentEvent]:
    shown = ""
    async for event in backend.watch(migration.project_id, migration.id):
        match event.WhichOneof("event"):
            case "state":
                if event.state.status != shown:
                    shown = event.state.status
                    state = {"migration_id": migration.id, "status": shown, "at": event.state.at}
                    yield _event("state", state)
                if shown in TERMINAL:
                    return
            case "task":
                yield _event("task", translate.task(event.task, migration.execution_id))
            case "disk":
                yield _event("disk", translate.disk(event.disk))


def _event(name: str, document: Any) -> ServerSentEvent:
    return ServerSentEvent(msgspec.json.encode(document).decode(), event=name)


def _error(error: CoriolisError) -> ServerSentEvent:
    fault = FAULTS.get(error.http_status, OTHER_FAULT)
    return _event("error", {"error": {"fault": fault, "code": error.http_status, "message": error.message}})
