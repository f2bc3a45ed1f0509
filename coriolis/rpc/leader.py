"""Calls to whichever coordinator leads: finds it, follows it, and waits out an election.

Shared by the gateway and the Python client. A call is repeated only when that is safe; what is never repeated
behind the caller's back is a call that may already have taken effect and would take effect twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing in the stubs

from coriolis.clock import Clock, SystemClock
from coriolis.errors import CoriolisError, InvalidInput, NotLeader, TimedOut, Unavailable
from coriolis.rpc.channel import open_channel
from coriolis.rpc.gen.coriolis.v1 import cluster_pb2, cluster_pb2_grpc
from coriolis.rpc.status import to_error
from coriolis.rpc.tls import TlsFiles

ELECTION_WAIT_S = 25.0
"""A new leader works after at most this time; longer without one is an outage."""
CALL_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 2.0
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 1.0
IDLE_CHECK_S = 10.0
"""A stream silent for so long is checked: a replaced leader need not end the streams it has."""
MAX_COORDINATORS = 16
MAX_CHANNELS = 32

Request = TypeVar("Request")
Response = TypeVar("Response")
Pick = Callable[[grpc.aio.Channel], Any]
"""From a channel to the method of a stub, e.g. ``lambda channel: JobServiceStub(channel).GetMigration``."""


class LeaderClient:
    """Holds channels to the coordinators and knows which one led last."""

    def __init__(
        self,
        coordinators: Sequence[str],
        tls: TlsFiles,
        *,
        election_wait_s: float = ELECTION_WAIT_S,
        clock: Clock | None = None,
    ) -> None:
        """``coordinators`` are 1 to 16 addresses host:port. Raises InvalidInput for any other number."""
        if not 1 <= len(coordinators) <= MAX_COORDINATORS:
            raise InvalidInput(f"coordinators has {len(coordinators)} addresses; 1 to {MAX_COORDINATORS} are possible")
        self._coordinators = tuple(coordinators)
        self._tls = tls
        self._election_wait_s = election_wait_s
        self._clock = clock or SystemClock()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._certificate: tuple[int, int] | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._leader = ""

    async def close(self) -> None:
        """Close every channel; running calls end with Cancelled."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(grace=None)
        for task in list(self._retired):
            task.cancel()

    async def find(self) -> str:
        """The leader's address, asked now. Raises Unavailable when no coordinator knows one."""
        known = dict.fromkeys([self._leader, *self._coordinators] if self._leader else self._coordinators)
        answers = await asyncio.gather(*(self._ask(address) for address in known))
        leading = [answer for answer in answers if isinstance(answer, cluster_pb2.GetLeaderResponse) and answer.address]
        if not leading:
            reasons = "; ".join(
                dict.fromkeys(answer.message for answer in answers if isinstance(answer, CoriolisError))
            )
            raise Unavailable(f"no coordinator leads now{f': {reasons}' if reasons else ', an election is going on'}")
        # a coordinator cut off from etcd still names its predecessor: the newest term is right
        self._leader = max(leading, key=lambda answer: answer.epoch).address
        return self._leader

    async def call(self, pick: Pick, request: Request, *, repeatable: bool, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The leader's answer. Our errors only.

        While nobody leads it is tried again for ``election_wait_s``, then Unavailable. A call that is not
        ``repeatable`` and whose outcome is unknown raises Unavailable with ``outcome_unknown``.
        """
        deadline = self._clock.monotonic() + self._election_wait_s
        pause_s = RETRY_FIRST_S
        while True:
            sent = False
            try:
                if not self._leader or not repeatable:
                    # a fresh answer proves a working connection, so that a later failure is rare and not the rule
                    await self.find()
                method = pick(self._channel(self._leader))
                sent = True
                return await method(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as failure:
                error = to_error(failure)
                if not isinstance(error, Unavailable | TimedOut):
                    raise error from failure
            except Unavailable as nobody:
                error = nobody
            refused = isinstance(error, NotLeader)
            if sent and not refused and not repeatable:
                raise _unknown(error) from error
            self._leader = error.leader_address if isinstance(error, NotLeader) else ""
            if self._clock.monotonic() + pause_s >= deadline:
                raise _unavailable(error) from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MOST_S)

    async def stream(self, pick: Pick, request: Request, ends: Callable[[Any], bool]) -> AsyncIterator[Any]:
        """Messages of a server stream, across leaders, until one for which ``ends`` is true has been given.

        After a reconnection the server starts over, so a message may repeat. Unavailable after ``election_wait_s``
        without a leader.
        """
        deadline = self._clock.monotonic() + self._election_wait_s
        pause_s = RETRY_FIRST_S
        while True:
            error: CoriolisError
            try:
                address = self._leader or await self.find()
                async for message in self._one_stream(pick(self._channel(address))(request), address):
                    deadline = self._clock.monotonic() + self._election_wait_s
                    pause_s = RETRY_FIRST_S
                    yield message
                    if ends(message):
                        return
                error = Unavailable("the coordinator ended the stream")
            except grpc.aio.AioRpcError as failure:
                error = to_error(failure)
                if not isinstance(error, Unavailable | TimedOut):
                    raise error from failure
            except Unavailable as nobody:
                error = nobody
            self._leader = error.leader_address if isinstance(error, NotLeader) else ""
            if self._clock.monotonic() + pause_s >= deadline:
                raise _unavailable(error) from error
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MOST_S)

    async def _one_stream(self, call: Any, address: str) -> AsyncIterator[Any]:
        """The messages of one stream; ends when ``address`` no longer leads."""
        try:
            while True:
                reading = asyncio.ensure_future(call.read())
                try:
                    while not (await asyncio.wait({reading}, timeout=IDLE_CHECK_S))[0]:
                        if await self.find() != address:
                            return
                finally:
                    if not reading.done():
                        reading.cancel()
                        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                            await reading
                message = reading.result()
                if message is EOF:
                    return
                yield message
        finally:
            call.cancel()

    async def _ask(self, address: str) -> cluster_pb2.GetLeaderResponse | CoriolisError:
        try:
            stub = cluster_pb2_grpc.ClusterServiceStub(self._channel(address))
            return await stub.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as failure:
            error = to_error(failure)
            # which process cannot be reached is what the operator needs to know
            return type(error)(f"{address}: {error.message}") if type(error) is Unavailable else error

    def _channel(self, address: str) -> grpc.aio.Channel:
        self._follow_certificate()
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS:
                self._retire(self._channels.pop(next(iter(self._channels))))
            channel = self._channels[address] = open_channel(address, self._tls, expected_role="coordinator")
        return channel

    def _follow_certificate(self) -> None:
        """Channels keep the certificate they were opened with: after a renewal new calls use new channels."""
        stamp = _stamp(self._tls.cert)
        if stamp is not None and stamp != self._certificate:
            self._certificate = stamp
            old, self._channels = list(self._channels.values()), {}
            for channel in old:
                self._retire(channel)

    def _retire(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(channel.close(grace=CALL_TIMEOUT_S), name="retire-channel")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _unavailable(error: CoriolisError) -> Unavailable:
    return error if type(error) is Unavailable else Unavailable(error.message)


def _unknown(error: CoriolisError) -> Unavailable:
    unknown = Unavailable(f"the coordinator did not answer, so the outcome is unknown; look before repeating: {error}")
    unknown.outcome_unknown = True
    return unknown
