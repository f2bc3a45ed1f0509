"""Opaque bytes between two TCP connections: bounded buffers, back-pressure, half-close and errors passed on."""

from __future__ import annotations

import asyncio
import socket
import struct

from coriolis.agent.data_port import split_address
from coriolis.errors import Unavailable

BUFFER_BYTES = 256 << 10
"""Per direction: all that is held of a connection, however slow its reader."""
KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_PROBES = 3
CONNECT_TIMEOUT_S = 5.0


async def copy_both_ways(one: socket.socket, other: socket.socket) -> None:
    """Until both have ended. Closes both; an error of one resets the other, so that nobody takes it for an end."""
    ended_well = False
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(one, other))
            group.create_task(_copy(other, one))
        ended_well = True
    except* OSError:
        pass  # passed on as a reset
    finally:
        for connection in (one, other):
            if not ended_well:
                _reset(connection)
            connection.close()


async def _copy(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while count := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(target, buffer[:count])
    target.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    """The close that follows sends RST: unsent data is dropped, the peer sees an error."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def tune(connection: socket.socket) -> None:
    """Notice a peer that vanished within 25 s, keep firewalls' entries alive, send small frames at once."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


async def connect_to(address: str) -> socket.socket:
    """A tuned connection to host:port. Raises OSError; Unavailable when the name has no address or nobody answers."""
    loop = asyncio.get_running_loop()
    host, port = split_address(address)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, protocol, _, target = found[0]
            connection = socket.socket(family, kind, protocol)
            try:
                tune(connection)
                await loop.sock_connect(connection, target)
            except BaseException:
                connection.close()
                raise
            return connection
    except TimeoutError as silent:
        raise Unavailable(f"{address} does not answer") from silent


async def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """``count`` bytes. Unavailable when the connection ends before."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        more = await loop.sock_recv(connection, count - len(data))
        if not more:
            raise Unavailable("the connection was closed by the other side")
        data += more
    return data
