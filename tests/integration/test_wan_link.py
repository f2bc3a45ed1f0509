"""The emulated long path: its delay, rate, loss and walls are those that were asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.lab.wan_link import End, Road, WanLink, missing, relayed_pair, wan_link

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "all is here")

SERVE = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    caller, _ = listener.accept()
    with caller:
        while got := caller.recv(1 << 16):
            if len(got) == 1:
                caller.sendall(got)
"""
ROUND_TRIP = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000), 20) as server:
    times = []
    for _ in range(5):
        began = time.monotonic()
        server.sendall(b"x")
        server.recv(1)
        times.append(time.monotonic() - began)
print(min(times))
"""
PUSH = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), 20) as server:
    for _ in range(int(sys.argv[2])):
        server.sendall(bytes(1 << 20))
    server.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b"", "everything arrived, then the server hung up"
"""
DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7000), float(sys.argv[2])).close()
    print("open")
except OSError as failed:
    print("closed")
"""


class Server:
    def __init__(self, end: End, address: str) -> None:
        argv = [*end.prefix, sys.executable, "-c", SERVE, address]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Server:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def run(end: End, program: str, *arguments: str) -> str:
    argv = [*end.prefix, sys.executable, "-c", program, *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def test_delay_and_rate() -> None:
    with wan_link(20, 200) as link, Server(link.b, link.b.address):
        # never faster than the line; scheduling on a busy machine may add some
        assert 0.040 <= float(run(link.a, ROUND_TRIP, link.b.address)) < 0.080
        before, began = link.stats()["ab"].bytes, time.monotonic()
        run(link.a, PUSH, link.b.address, "20")
        carried, took = link.stats()["ab"].bytes - before, time.monotonic() - began
        assert carried >= 20 << 20
        assert took >= carried * 8 / 200e6


def test_loss_is_as_asked_for_and_counted() -> None:
    with wan_link(1, 1000, 0.05) as link, Server(link.b, link.b.address):
        assert_no_losses_before(link)
        run(link.a, PUSH, link.b.address, "6")
        counts = link.stats()["ab"]
        assert 0.03 < counts.lost / (counts.lost + counts.packets) < 0.07
        link.set_road(Road(1, 1000, 0.0))
        lost = link.stats()["ab"].lost
        run(link.a, PUSH, link.b.address, "6")
        assert link.stats()["ab"].lost == lost


def assert_no_losses_before(link: WanLink) -> None:
    assert link.stats()["ab"].packets == 0


def test_a_full_queue_drops() -> None:
    with wan_link(5, 20, queue_bytes=30_000) as link, Server(link.b, link.b.address):
        run(link.a, PUSH, link.b.address, "4")
        assert link.stats()["ab"].overflowed > 0
        assert link.stats()["ab"].lost == 0


def test_an_end_may_only_dial_out() -> None:
    with wan_link(1, 1000) as link, Server(link.a, link.a.address), Server(link.b, link.b.address):
        link.refuse_dialling(link.b)
        assert run(link.a, DIAL, link.b.address, "1.5") == "closed"
        assert run(link.b, DIAL, link.a.address, "20") == "open"
        assert link.stats()["ab"].refused > 0
        link.refuse_dialling(link.b, False)
        assert run(link.a, DIAL, link.b.address, "20") == "open"
        link.cut()
        assert run(link.b, DIAL, link.a.address, "1.5") == "closed"


def test_a_relayed_pair_meets_at_the_relay_only() -> None:
    with relayed_pair(Road(1, 1000)) as pair, Server(pair.a.b, "0.0.0.0"), Server(pair.b.a, pair.b.a.address):
        assert run(pair.a.a, DIAL, pair.a.b.address, "20") == "open"
        assert run(pair.b.a, DIAL, pair.b.b.address, "20") == "open"
        assert run(pair.a.a, DIAL, pair.b.a.address, "1.5") == "closed"


def test_nothing_stays_behind() -> None:
    with wan_link() as link:
        names = {link.a.namespace, link.b.namespace}
        assert names <= set(os.listdir("/run/netns"))
    assert not names & set(os.listdir("/run/netns"))
