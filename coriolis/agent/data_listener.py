"""An agent's data port: answers probes, lets connections meet. Bounds what strangers can hold open."""

from __future__ import annotations

import asyncio
import resource
import socket

import structlog

from coriolis.agent.byte_copy import receive_exactly, tune
from coriolis.agent.preface import PREFACE_BYTES, CallerRole, decode_preface
from coriolis.agent.probe import answer_probe
from coriolis.agent.relay import Relay
from coriolis.errors import InvalidInput, Unavailable
from coriolis.rpc.tls import TlsFiles

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 1024
MAX_UNKNOWN = 128
"""Connections that have not yet said what they want, and probes."""
DESCRIPTORS = 8192
PREFACE_TIMEOUT_S = 5.0
EXPIRE_S = 10.0
ACCEPT_PAUSE_S = 0.1


def allow_descriptors() -> None:
    """Let this process and its tasks open as many connections as the bounds here allow: 1024 descriptors are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class DataListener:
    """Serves ``listener``, a socket of ``bind_data_socket``, until cancelled."""

    def __init__(self, listener: socket.socket, relay: Relay, tls: TlsFiles) -> None:
        self._listener = listener
        self._relay = relay
        self._tls = tls
        self._connections = 0
        self._unknown = 0

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    async def serve(self) -> None:
        """Closes the listener and every connection at its end."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._expire())
                await self._accept(group)
        finally:
            self._listener.close()

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as failed:
                # out of descriptors, or the caller was gone already
                log.warning("connection not accepted", reason=failed.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if self._connections >= MAX_CONNECTIONS or self._unknown >= MAX_UNKNOWN:
                connection.close()
                continue
            self._connections += 1
            self._unknown += 1
            group.create_task(self._serve_one(connection))

    async def _serve_one(self, connection: socket.socket) -> None:
        known = False
        try:
            tune(connection)
            async with asyncio.timeout(PREFACE_TIMEOUT_S):
                preface = decode_preface(await receive_exactly(connection, PREFACE_BYTES))
            if preface.role is CallerRole.PROBE:
                await answer_probe(connection, self._tls)
                return
            known, self._unknown = True, self._unknown - 1
            # from here on the relay closes it: a parked connection outlives this task in the one it is joined to
            await self._relay.meet(connection, preface)
        except (OSError, TimeoutError, InvalidInput, Unavailable) as refused:
            log.info("connection to the data port refused", reason=str(refused)[:200])
        finally:
            if not known:
                connection.close()
            self._connections -= 1
            if not known:
                self._unknown -= 1

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            self._relay.expire()
