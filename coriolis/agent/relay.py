"""Joins connections that two agents opened to this one: parked ones of a sink with those of its source, by key.

What passes is opaque: TLS runs between the two ends. A key is good for one attempt of one task; the leader names the
good ones, everything else is closed without a word.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterable

import structlog

from coriolis.agent.byte_copy import copy_both_ways
from coriolis.agent.preface import GO, KEY_BYTES, CallerRole, Preface, Service
from coriolis.errors import Unavailable

log = structlog.get_logger(__name__)

MAX_KEYS = 256
MAX_PARKED_PER_KEY = 16
MAX_WAITING_PER_KEY = 64
"""Connections of a source that wait for a parked one."""
MAX_PAIRS_PER_KEY = 512
WAIT_FOR_PARKED_S = 10.0
KEYS_LIVE_S = 900.0
"""Keys die this long after the last word of a leader; an election takes 25 s at most."""


class _Parked:
    """A sink's connection that waits. Watched for its end until it is taken."""

    def __init__(self, connection: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self.connection = connection
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when it was taken or has ended; cancelled with the task that waits for it."""
        self._taken: bool | None = None
        # a parked connection says nothing: readable means ended (or a breach of the protocol)
        self._loop.add_reader(connection, self._settle, False)

    def take(self) -> bool:
        """Whether the caller owns the connection now."""
        return self._settle(True)

    def _settle(self, taken: bool) -> bool:
        if self._taken is not None:
            return False
        self._taken = taken
        self._loop.remove_reader(self.connection)
        if not self.over.done():
            self.over.set_result(None)
        return True

    def drop(self) -> None:
        """Close it unless it was taken."""
        self._settle(False)
        if not self._taken:
            self.connection.close()


class _Meeting:
    """Connections of one key."""

    def __init__(self) -> None:
        self.parked: deque[_Parked] = deque()
        self.waiting: deque[asyncio.Future[_Parked]] = deque()
        self.pairs = 0
        self.tasks: set[asyncio.Task[None]] = set()


class Relay:
    """``meet`` runs in one task per connection, owned by the caller."""

    def __init__(self) -> None:
        self._meetings: dict[bytes, _Meeting] = {}
        self._good_until = 0.0
        self.copied_pairs = 0

    def set_keys(self, keys: Iterable[bytes]) -> None:
        """From now on exactly these keys may meet; connections of others end. At most MAX_KEYS, the rest is refused."""
        good = [key for key in dict.fromkeys(keys) if len(key) == KEY_BYTES]
        if len(good) > MAX_KEYS:
            log.warning("more relay keys than this agent takes", given=len(good), taken=MAX_KEYS)
        wanted = set(good[:MAX_KEYS])
        for key in [key for key in self._meetings if key not in wanted]:
            for task in self._meetings.pop(key).tasks:
                task.cancel()
        for key in wanted:
            self._meetings.setdefault(key, _Meeting())
        self._good_until = asyncio.get_running_loop().time() + KEYS_LIVE_S

    def expire(self) -> None:
        """To be called now and then: without a word of a leader for KEYS_LIVE_S all keys die."""
        if self._meetings and asyncio.get_running_loop().time() > self._good_until:
            self.set_keys(())

    def pairs(self) -> int:
        """Connections that are joined now."""
        return sum(meeting.pairs for meeting in self._meetings.values())

    async def meet(self, connection: socket.socket, preface: Preface) -> None:
        """Serve one connection until it ends; closes it. An unknown key is refused by closing."""
        meeting = self._meetings.get(preface.key)
        if meeting is None:
            log.info("connection with an unknown or ended key refused", role=preface.role.name)
            connection.close()
            return
        task = asyncio.current_task()
        assert task is not None
        meeting.tasks.add(task)
        try:
            if preface.role is CallerRole.PARKER:
                await self._park(meeting, connection)
            else:
                await self._dial(meeting, connection, preface.service)
        finally:
            meeting.tasks.discard(task)

    async def _park(self, meeting: _Meeting, connection: socket.socket) -> None:
        if len(meeting.parked) >= MAX_PARKED_PER_KEY:
            connection.close()
            return
        parked = _Parked(connection)
        try:
            while meeting.waiting:
                wish = meeting.waiting.popleft()
                if not wish.done() and parked.take():
                    wish.set_result(parked)
                    return
            meeting.parked.append(parked)
            await parked.over
        finally:
            if parked in meeting.parked:
                meeting.parked.remove(parked)
            parked.drop()

    async def _dial(self, meeting: _Meeting, connection: socket.socket, service: Service) -> None:
        loop = asyncio.get_running_loop()
        if meeting.pairs >= MAX_PAIRS_PER_KEY or service is Service.ANY:
            connection.close()
            return
        meeting.pairs += 1
        parked: _Parked | None = None
        try:
            while parked is None:
                parked = await self._find_parked(meeting)
                try:
                    await loop.sock_sendall(parked.connection, bytes([service]))
                except OSError:
                    parked.connection.close()  # it died in this moment; the next one
                    parked = None
            await loop.sock_sendall(connection, GO)
            self.copied_pairs += 1
            await copy_both_ways(connection, parked.connection)
        except (OSError, Unavailable) as failed:
            log.info("connection not joined", reason=str(failed))
        finally:
            meeting.pairs -= 1
            connection.close()
            if parked is not None:
                parked.connection.close()

    async def _find_parked(self, meeting: _Meeting) -> _Parked:
        while meeting.parked:
            parked = meeting.parked.popleft()
            if parked.take():
                return parked
        if len(meeting.waiting) >= MAX_WAITING_PER_KEY:
            raise Unavailable("too many connections wait for this sink")
        wish: asyncio.Future[_Parked] = asyncio.get_running_loop().create_future()
        meeting.waiting.append(wish)
        try:
            done, _ = await asyncio.wait({wish}, timeout=WAIT_FOR_PARKED_S)
            if done:
                return wish.result()
            wish.cancel()
            raise Unavailable("the sink opened no connection in time")
        except asyncio.CancelledError:
            if wish.done() and not wish.cancelled():
                wish.result().connection.close()  # given in this very moment, and nobody takes it
            raise
        finally:
            if wish in meeting.waiting:
                meeting.waiting.remove(wish)
