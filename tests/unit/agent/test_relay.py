"""Connections meet by key or not at all; bounds, half-close, lost peers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from coriolis.agent import data_listener, relay
from coriolis.agent.byte_copy import connect_to, receive_exactly
from coriolis.agent.data_listener import DataListener
from coriolis.agent.data_port import bind_data_socket, join_address
from coriolis.agent.preface import GO, CallerRole, Preface, Service, encode_preface
from coriolis.agent.relay import Relay
from coriolis.errors import Unavailable
from coriolis.rpc.tls import TlsFiles

KEY, OTHER = b"k" * 32, b"o" * 32
NO_TLS = TlsFiles(Path("ca"), Path("cert"), Path("key"))


class Meeting:
    """A data listener and short ways to call it."""

    def __init__(self, joined: Relay, address: str) -> None:
        self.relay, self.address = joined, address
        self._opened: list[socket.socket] = []

    async def call(self, role: CallerRole, service: Service = Service.ANY, key: bytes = KEY) -> socket.socket:
        connection = await connect_to(self.address)
        self._opened.append(connection)
        await asyncio.get_running_loop().sock_sendall(connection, encode_preface(Preface(role, service, key)))
        return connection

    async def pair(self) -> tuple[socket.socket, socket.socket]:
        """(dialler, parker), joined."""
        parker = await self.call(CallerRole.PARKER)
        dialler = await self.call(CallerRole.DIALLER, Service.GRPC)
        assert await receive_exactly(dialler, 1) == GO
        assert await receive_exactly(parker, 1) == bytes([Service.GRPC])
        return dialler, parker

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


@asynccontextmanager
async def meeting() -> AsyncIterator[Meeting]:
    joined = Relay()
    joined.set_keys([KEY])
    listener = DataListener(bind_data_socket("127.0.0.1", None), joined, NO_TLS)
    serving = asyncio.create_task(listener.serve())
    place = Meeting(joined, join_address("127.0.0.1", listener.port))
    try:
        async with asyncio.timeout(20):
            yield place
    finally:
        place.close()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def send(connection: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, data)


async def read_to_end(connection: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while more := await loop.sock_recv(connection, 1 << 16):
        data += more
    return data


async def refused(connection: socket.socket) -> bool:
    """Whether the other side closed it without a byte."""
    try:
        return await read_to_end(connection) == b""
    except ConnectionResetError:
        return True


async def test_bytes_pass_both_ways_and_each_end_by_itself() -> None:
    async with meeting() as place:
        dialler, parker = await place.pair()
        big = bytes(range(256)) * 20_000
        async with asyncio.TaskGroup() as group:
            there = group.create_task(read_to_end(parker))
            await send(dialler, big)
            dialler.shutdown(socket.SHUT_WR)
        assert there.result() == big
        # the way back is open still
        await send(parker, b"answer")
        parker.shutdown(socket.SHUT_WR)
        assert await read_to_end(dialler) == b"answer"
        await asyncio.sleep(0.05)
        assert place.relay.pairs() == 0


async def test_a_dialler_that_comes_first_waits_for_a_parked_one() -> None:
    async with meeting() as place:
        dialler = await place.call(CallerRole.DIALLER, Service.DIRECT)
        parker = await place.call(CallerRole.PARKER)
        assert await receive_exactly(parker, 1) == bytes([Service.DIRECT])
        assert await receive_exactly(dialler, 1) == GO


async def test_a_dialler_alone_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WAIT_FOR_PARKED_S", 0.1)
    async with meeting() as place:
        assert await refused(await place.call(CallerRole.DIALLER, Service.GRPC))
        # and leaves nothing behind that would swallow the next parked one
        await place.pair()


@pytest.mark.parametrize("role", [CallerRole.DIALLER, CallerRole.PARKER])
async def test_an_unknown_key_is_refused(role: CallerRole) -> None:
    async with meeting() as place:
        await place.call(CallerRole.PARKER)
        assert await refused(await place.call(role, Service.GRPC, OTHER))


async def test_a_key_that_ended_takes_its_connections_along() -> None:
    async with meeting() as place:
        dialler, parker = await place.pair()
        idle = await place.call(CallerRole.PARKER)
        place.relay.set_keys([OTHER])
        for connection in (dialler, parker, idle):
            assert await refused(connection)
        assert await refused(await place.call(CallerRole.PARKER))


async def test_the_end_of_an_agent_ends_what_is_parked_there() -> None:
    """Found: the sockets stayed open, and the sink waited at a place where nobody came any more."""
    async with meeting() as place:
        idle = await place.call(CallerRole.PARKER)
        await asyncio.sleep(0.05)
        waiting = list(place.relay._meetings[KEY].parked)
        for task in place.relay._meetings[KEY].tasks:
            task.cancel()
        assert await refused(idle)
        assert waiting[0].connection.fileno() == -1


async def test_keys_die_without_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    async with meeting() as place:
        idle = await place.call(CallerRole.PARKER)
        place.relay.expire()
        monkeypatch.setattr(relay, "KEYS_LIVE_S", -1.0)
        place.relay.set_keys([KEY])
        place.relay.expire()
        assert await refused(idle)


async def test_a_parked_one_that_ended_is_not_given_away() -> None:
    async with meeting() as place:
        lost = await place.call(CallerRole.PARKER)
        lost.close()
        await asyncio.sleep(0.05)
        await place.pair()


async def test_a_lost_side_is_an_error_for_the_other() -> None:
    async with meeting() as place:
        dialler, parker = await place.pair()
        parker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        parker.close()  # RST: not an end of data
        with pytest.raises(ConnectionResetError):
            await read_to_end(dialler)


async def test_parked_connections_are_bounded() -> None:
    async with meeting() as place:
        parked = [await place.call(CallerRole.PARKER) for _ in range(relay.MAX_PARKED_PER_KEY)]
        await asyncio.sleep(0.05)
        assert await refused(await place.call(CallerRole.PARKER))
        dialler = await place.call(CallerRole.DIALLER, Service.GRPC)
        assert await receive_exactly(dialler, 1) == GO
        assert await receive_exactly(parked[0], 1) == bytes([Service.GRPC])


async def test_strangers_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_listener, "PREFACE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(data_listener, "MAX_UNKNOWN", 2)
    async with meeting() as place:
        silent = [await connect_to(place.address) for _ in range(3)]
        assert await refused(silent[2])
        assert await refused(silent[0])
        assert await refused(silent[1])
        garbage = await connect_to(place.address)
        await send(garbage, b"GET / HTTP/1.1\r\nHost: a-data-port-is-no-web-server\r\n\r\n")
        assert await refused(garbage)
        await place.pair()
        for connection in (*silent, garbage):
            connection.close()


async def test_too_many_keys_are_cut() -> None:
    async with meeting() as place:
        keys = [number.to_bytes(32, "big") for number in range(relay.MAX_KEYS + 10)]
        place.relay.set_keys([b"short", *keys])
        assert len(place.relay._meetings) == relay.MAX_KEYS


async def test_a_slow_reader_holds_the_sender_back() -> None:
    async with meeting() as place:
        dialler, parker = await place.pair()
        for connection in (dialler, parker):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        total = 64 << 20
        sending = asyncio.create_task(send(dialler, bytes(total)))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        assert not done, "nobody reads, yet 64 MiB were taken"
        assert len(await receive_exactly(parker, 1 << 20)) == 1 << 20
        sending.cancel()


async def test_connecting_to_nobody_is_our_error() -> None:
    with bind_data_socket("127.0.0.1", None) as listener:
        free = listener.getsockname()[1]
    with pytest.raises((OSError, Unavailable)):
        await connect_to(f"127.0.0.1:{free}")
