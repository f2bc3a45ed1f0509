"""The processes that read byte ranges: what they send, how they fail, when they die."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding

from coriolis.errors import Throttled, TimedOut, Unavailable
from coriolis.providers.vmware_vsphere.certificate import Trust
from coriolis.providers.vmware_vsphere.export_messages import Order
from coriolis.providers.vmware_vsphere.range_links import RangeLinks, shares
from coriolis.providers.vmware_vsphere.range_messages import (
    MAX_RANGE_BYTES,
    Ask,
    encode_ask,
    receive_answer,
    send_answer,
    send_failure,
    taken_asks,
)
from tests.fault.conversion import descendants
from tests.lab.vsphere_phony_certificate import certificate

COOKIE = "vmware_soap_session=a-secret-of-this-test"
KIB = 1 << 10
SIZE = 4 << 20


class PhonyHost:
    """An ESXi host that serves ranges of one extent. ``slow``: it waits in the middle; ``short``: it ends there."""

    def __init__(self, directory: Path) -> None:
        path, made = certificate(directory)
        self.trust = Trust(only=made.public_bytes(Encoding.DER))
        self.content = random.Random(3).randbytes(SIZE)
        self.status = 206
        self.slow = self.short = False
        self.cookies: set[str] = set()
        self.released = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._answering())
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # cut connections are wanted here
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)

    def _answering(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.cookies.add(self.headers["Cookie"])
                first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
                body = host.content[first : last + 1] if host.status == 206 else b"<html>no</html>"
                self.send_response(host.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                half = len(body) // 2
                self.wfile.write(body[:half])
                if host.short:
                    self.close_connection = True
                    return
                if host.slow:
                    host.released.wait(60)
                self.wfile.write(body[half:])

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        return Answering

    def orders(self, stall_s: float = 20.0) -> list[Order]:
        port = self.server.server_address[1]
        order = Order("127.0.0.1", port, "/folder/d-flat.vmdk", "", self.trust, stall_s, os.getpid())
        return [order._replace(connections=share) for share in shares(4)]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PhonyHost]:
    phony = PhonyHost(tmp_path)
    thread = threading.Thread(target=phony.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield phony
    phony.released.set()
    phony.server.shutdown()
    phony.server.socket.close()


@pytest_asyncio.fixture
async def links(host: PhonyHost) -> AsyncIterator[RangeLinks]:
    before = set(descendants(os.getpid()))
    found = RangeLinks(host.orders())
    yield found
    await found.close()
    assert set(descendants(os.getpid())) <= before


def test_connections_are_shared_among_processes() -> None:
    assert [shares(count) for count in (1, 2, 3, 4, 5, 8)] == [[1], [2], [2, 1], [2, 2], [2, 2, 1], [2, 2, 2, 2]]


async def test_each_answer_is_its_ranges_bytes(host: PhonyHost, links: RangeLinks) -> None:
    rng = random.Random(7)
    places = [(at := rng.randrange(SIZE), rng.randint(1, min(300 * KIB, SIZE - at))) for _ in range(200)]
    answers = await asyncio.gather(*(links.get(at, length, COOKIE) for at, length in places))
    for (at, length), answer in zip(places, answers, strict=True):
        assert answer == (206, host.content[at : at + length])
    assert host.cookies == {COOKIE}


async def test_a_refusal_comes_as_it_was_said_and_the_next_range_works(host: PhonyHost, links: RangeLinks) -> None:
    host.status = 404
    answer = await links.get(0, KIB, COOKIE)
    assert answer.status == 404
    assert b"<html>no</html>".startswith(answer.body)  # what came with the head
    host.status = 206
    assert (await links.get(0, KIB, COOKIE)).body == host.content[:KIB]


async def test_an_answer_that_breaks_off_is_no_answer(host: PhonyHost, links: RangeLinks) -> None:
    host.short = True
    with pytest.raises(Unavailable, match="IncompleteRead"):
        await links.get(0, KIB, COOKIE)
    host.short = False
    assert (await links.get(0, KIB, COOKIE)).body == host.content[:KIB]


async def test_silence_ends(host: PhonyHost) -> None:
    links = RangeLinks(host.orders(stall_s=1.0))
    host.slow = True
    try:
        with pytest.raises(TimedOut, match="nothing came for 1 s"):
            await links.get(0, KIB, COOKIE)
    finally:
        await links.close()


async def test_nobody_answers(host: PhonyHost) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        links = RangeLinks([order._replace(port=closed.getsockname()[1]) for order in host.orders()])
        try:
            with pytest.raises(Unavailable, match="refused"):
                await links.get(0, KIB, COOKIE)
        finally:
            await links.close()


async def test_another_certificate_is_refused(host: PhonyHost, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, other = certificate(tmp_path / "other")
    trust = Trust(only=other.public_bytes(Encoding.DER))
    links = RangeLinks([order._replace(trust=trust) for order in host.orders()])
    try:
        with pytest.raises(Unavailable, match="certificate"):
            await links.get(0, KIB, COOKIE)
        assert not host.cookies
    finally:
        await links.close()


async def test_a_process_that_is_killed_fails_its_ranges_and_another_takes_its_place(
    host: PhonyHost, links: RangeLinks
) -> None:
    before = set(descendants(os.getpid()))
    await links.get(0, KIB, COOKIE)
    host.slow = True
    under_way = [asyncio.create_task(links.get(at * KIB, KIB, COOKIE)) for at in range(6)]
    async with asyncio.timeout(20):
        while len(set(descendants(os.getpid())) - before) < 2:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    for process in set(descendants(os.getpid())) - before:
        assert COOKIE not in Path(f"/proc/{process}/cmdline").read_text() + Path(f"/proc/{process}/environ").read_text()
        os.kill(process, signal.SIGKILL)
    ended = await asyncio.gather(*under_way, return_exceptions=True)
    assert {type(one) for one in ended} == {Unavailable}, ended
    host.slow = False
    host.released.set()
    got = await asyncio.gather(*(links.get(at * KIB, KIB, COOKIE) for at in range(6)))
    assert b"".join(one.body for one in got) == host.content[: 6 * KIB]


async def test_a_cancelled_range_hurts_no_other(host: PhonyHost, links: RangeLinks) -> None:
    host.slow = True
    waits = [asyncio.create_task(links.get(0, KIB, COOKIE)) for _ in range(3)]
    await asyncio.sleep(0.5)
    waits[0].cancel()
    host.released.set()
    ended = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert ended[1:] == [(206, host.content[:KIB])] * 2


async def test_closing_ends_what_waits(host: PhonyHost) -> None:
    links = RangeLinks(host.orders())
    host.slow = True
    waiting = asyncio.create_task(links.get(0, KIB, COOKIE))
    await asyncio.sleep(0.5)
    await links.close()
    with pytest.raises(Unavailable):
        await waiting


def test_asks_come_out_whole_and_in_order() -> None:
    asks = [Ask(number, number * SIZE, number, COOKIE * (number % 3)) for number in range(1, 9)]
    text, arrived, got = b"".join(map(encode_ask, asks)), bytearray(), list[Ask]()
    for at in range(0, len(text), 7):
        arrived += text[at : at + 7]
        got.extend(taken_asks(arrived))
    assert got == asks
    assert not arrived
    for wrong in (Ask(1, 0, MAX_RANGE_BYTES + 1, ""), Ask(1, 0, 1, "x" * 9000)):
        with pytest.raises(ValueError, match="a cookie of"):
            encode_ask(wrong)


def test_answers_and_failures_arrive_as_they_were_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_answer(theirs, Ask(5, 0, 3, ""), 206, memoryview(b"abc"))
        send_answer(theirs, Ask(6, 0, 3, ""), 404, b"")
        send_failure(theirs, Ask(7, 0, 3, ""), Throttled("later"))
        assert receive_answer(ours) == (5, (206, b"abc"))
        assert receive_answer(ours) == (6, (404, b""))
        number, error = receive_answer(ours)
        assert (number, type(error), str(error)) == (7, Throttled, "later")
        theirs.close()
        with pytest.raises(Unavailable, match="ended without a word"):
            receive_answer(ours)
