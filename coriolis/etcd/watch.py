"""Watching keys: every change once, in order, across reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import grpc

from coriolis.errors import Unavailable
from coriolis.etcd.client import EtcdClient
from coriolis.etcd.endpoints import Endpoint
from coriolis.etcd.failures import Compacted, is_interruption, is_stale_token, to_etcd_error
from coriolis.etcd.records import KeyValue, decode_key, encode_key, key_value, prefix_end
from coriolis.rpc.gen.etcd import kv_pb2, rpc_pb2

CREATE_TIMEOUT_S = 3.0
RESUME_PAUSE_S = 0.2
GIVE_UP_S = 60.0
"""Without a working member for this long, the watch raises Unavailable."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """``item`` is None when the key was deleted at ``revision`` (by hand or with its lease)."""

    key: str
    revision: int
    item: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes in order. With those delivered before, all changes up to ``revision`` are known."""

    revision: int
    events: tuple[WatchEvent, ...]


async def watch(
    client: EtcdClient,
    key: str,
    *,
    prefix: bool = False,
    start_revision: int,
    give_up_s: float = GIVE_UP_S,
) -> AsyncGenerator[WatchBatch]:
    """All changes from ``start_revision`` on (a listing's revision + 1), without gap or repetition.

    Raises Compacted when that history is gone, Denied, and Unavailable after ``give_up_s`` without a
    member. Close it (``contextlib.aclosing``) when leaving early.
    """
    assert start_revision > 0, "a watch from 'now' cannot be resumed without a gap"
    request = rpc_pb2.WatchCreateRequest(
        key=encode_key(key),
        range_end=prefix_end(key) if prefix else b"",
        progress_notify=True,
        fragment=True,
    )
    position = _Position(start_revision)
    broken_since = time.monotonic()
    while True:
        served = False
        try:
            member = await client.endpoints.ready(broken_since + give_up_s)
            request.start_revision = position.next_revision
            async with contextlib.aclosing(_responses(client, member, request)) as responses:
                async for response in responses:
                    served = True
                    batch = position.advance(response)
                    if batch is not None:
                        yield batch
        except _Interrupted as interruption:
            client.endpoints.leave(interruption.member)
            if served:
                broken_since = time.monotonic()
            elif time.monotonic() - broken_since > give_up_s:
                raise Unavailable(f"no etcd member served a watch for {give_up_s} s") from interruption
        position.forget_fragment()
        await asyncio.sleep(RESUME_PAUSE_S)


class _Interrupted(Exception):  # never leaves this module
    def __init__(self, member: Endpoint) -> None:
        super().__init__(member.address)
        self.member = member


class _Position:
    """How far a watch has come. Pure: responses in, batches out."""

    def __init__(self, start_revision: int) -> None:
        self.next_revision = start_revision
        self._held: list[kv_pb2.Event] = []

    def advance(self, response: rpc_pb2.WatchResponse) -> WatchBatch | None:
        """The whole revisions that became known; None if there is nothing to tell."""
        if response.compact_revision:
            raise Compacted(f"etcd forgot the changes before revision {response.compact_revision}; list again")
        events = [*self._held, *response.events]
        self._held = []
        if response.fragment and events:
            # The last revision may go on in the next fragment; resuming in its middle would lose or repeat
            # a part.
            last = events[-1].kv.mod_revision
            self._held = [event for event in events if event.kv.mod_revision == last]
            events = events[: len(events) - len(self._held)]
        if events:
            self.next_revision = events[-1].kv.mod_revision + 1
        elif not response.created and not response.fragment:
            # A progress notice: nothing happened up to here, so that compaction cannot overtake an idle
            # watch.
            self.next_revision = max(self.next_revision, response.header.revision + 1)
        if not events:
            return None
        return WatchBatch(self.next_revision - 1, tuple(_event(event) for event in events))

    def forget_fragment(self) -> None:
        """The rest of a fragmented response will not come; it is read again from ``next_revision``."""
        self._held = []


async def _responses(
    client: EtcdClient, member: Endpoint, request: rpc_pb2.WatchCreateRequest
) -> AsyncGenerator[rpc_pb2.WatchResponse]:
    """One watch stream on one member, until it breaks."""
    try:
        metadata = await client.metadata(time.monotonic() + CREATE_TIMEOUT_S)
    except Unavailable as failure:
        raise _Interrupted(member) from failure
    stream: Any = member.watch.Watch  # the typing stubs lack calls without an iterator
    call = stream(metadata=metadata)
    try:
        async with asyncio.timeout(CREATE_TIMEOUT_S):
            await call.write(rpc_pb2.WatchRequest(create_request=request))
            response = await call.read()
        while isinstance(response, rpc_pb2.WatchResponse):  # else the end of the stream
            yield response
            if response.canceled and not response.compact_revision:
                break
            response = await call.read()
        raise _Interrupted(member)
    except (TimeoutError, asyncio.InvalidStateError) as failure:
        raise _Interrupted(member) from failure
    except grpc.aio.AioRpcError as failure:
        if is_stale_token(failure):
            client.forget_token()
        elif not is_interruption(failure):
            raise to_etcd_error(failure) from failure
        raise _Interrupted(member) from failure
    finally:
        call.cancel()


def _event(event: kv_pb2.Event) -> WatchEvent:
    item = None if event.type == kv_pb2.Event.DELETE else key_value(event.kv)
    return WatchEvent(decode_key(event.kv.key), event.kv.mod_revision, item)
