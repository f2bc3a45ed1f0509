"""The process that fetches and decodes an export: what it sends, how it fails, when it dies."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from coriolis.errors import CoriolisError, Corrupt, Denied, Throttled, TimedOut, Unavailable, Unsupported
from coriolis.providers.vmware_vsphere import export_link, export_messages, stream_reader
from coriolis.providers.vmware_vsphere.certificate import Trust
from coriolis.providers.vmware_vsphere.export_link import decoded
from coriolis.providers.vmware_vsphere.export_messages import (
    CELL_BYTES,
    MAX_BATCH_BYTES,
    Batch,
    Order,
    encode_end,
    encode_failure,
    encode_grains,
    encode_order,
    receive_batch,
    receive_order,
)
from coriolis.providers.vmware_vsphere.stream_reader import StreamReader
from coriolis.providers.vmware_vsphere.stream_vmdk import Grain
from tests.lab.vsphere_phony_certificate import certificate
from tests.unit.providers.test_stream_reader import GRAIN, stream_of

MIB = 1 << 20
COOKIE = "vmware_soap_session=a-secret-of-this-test"
SIZE = 5 * MIB + GRAIN


class PhonyHost:
    """An ESXi host that serves one stream. ``cut``: bytes after which each answer breaks off, ``stall``: is silent."""

    def __init__(self, directory: Path) -> None:
        path, made = certificate(directory)
        self.trust = Trust(only=made.public_bytes(Encoding.DER))
        self.stream = b""
        self.status = 200
        self.cut: list[int] = []
        self.stall = False
        self.sent, self.cookies = 0, list[str]()
        self.ended = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._answering())
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)

    def _answering(self) -> type[BaseHTTPRequestHandler]:
        host = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.cookies.append(self.headers["Cookie"])
                self.send_response(host.status)
                self.send_header("Content-Length", str(len(host.stream)))
                self.end_headers()
                if host.status != 200:
                    return
                end = host.cut.pop(0) if host.cut else len(host.stream)
                for at in range(0, end, 50_000):
                    piece = host.stream[at : min(at + 50_000, end)]
                    self.wfile.write(piece)
                    host.sent += len(piece)
                if host.stall:
                    host.ended.wait(60)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        return Answering

    def order(self, **changes: object) -> Order:
        port = self.server.server_address[1]
        whole = Order("127.0.0.1", port, "/nfc/disk.vmdk", COOKIE, self.trust, 20.0, os.getpid())
        return whole._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PhonyHost]:
    phony = PhonyHost(tmp_path)
    phony.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # cut connections are wanted here
    thread = threading.Thread(target=phony.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield phony
    phony.ended.set()
    phony.server.shutdown()
    phony.server.socket.close()


def disk(seed: int = 5) -> bytes:
    """Random data with holes, also within cells."""
    chance, out = random.Random(seed), bytearray(SIZE)
    for at, length in ((0, 2 * MIB + 3 * GRAIN), (3 * MIB, GRAIN), (3 * MIB + 9 * GRAIN, MIB), (SIZE - GRAIN, GRAIN)):
        out[at : at + length] = chance.randbytes(length)
    return bytes(out)


async def batches_of(order: Order) -> list[Batch]:
    async with decoded(order) as batches:
        return [batch async for batch in batches]


def content(batches: list[Batch]) -> bytes:
    out = bytearray(SIZE)
    for batch in batches:
        for offset, data in batch.grains:
            out[offset : offset + len(data)] = data
    return bytes(out)


def children() -> list[int]:
    """Processes of exports that this thread has started and that still are."""
    started = _said(os.getpid(), f"task/{threading.get_native_id()}/children").split()
    return [int(pid) for pid in started if export_link.MODULE.encode() in _said(int(pid), "cmdline")]


def _said(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""


# ---- the process ------------------------------------------------------------------------------------------------


async def test_a_disk_comes_whole_in_runs_of_at_most_a_cell(host: PhonyHost) -> None:
    truth = disk()
    host.stream = stream_of(truth)
    found = await batches_of(host.order())
    assert content(found) == truth
    assert [batch.ended for batch in found] == [False] * (len(found) - 1) + [True]
    assert {batch.size_bytes for batch in found if batch.grains} == {SIZE}
    runs = [grain for batch in found for grain in batch.grains]
    assert runs[0] == Grain(0, truth[:MIB])
    assert all(run.offset % CELL_BYTES + len(run.data) <= CELL_BYTES for run in runs)
    assert host.cookies == [COOKIE]
    assert children() == []


async def test_cuts_come_without_an_end_and_rubbish_is_named(host: PhonyHost) -> None:
    host.stream = stream_of(disk())
    host.cut = [len(host.stream) // 2]
    assert not any(batch.ended for batch in await batches_of(host.order()))
    host.stream = stream_of(disk(), end=False)
    assert not any(batch.ended for batch in await batches_of(host.order()))
    host.stream = b"<html>" * 1000
    with pytest.raises(Corrupt, match="magic number"):
        await batches_of(host.order())
    host.stream = stream_of(disk()).replace(struct.pack("<I", 0x30001), struct.pack("<I", 1), 1)
    with pytest.raises(Unsupported):
        await batches_of(host.order())


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Denied), (403, Denied), (404, Unavailable), (503, Throttled), (500, Unavailable)]
)
async def test_refusals_keep_their_class_and_words(host: PhonyHost, status: int, kind: type[CoriolisError]) -> None:
    host.status = status
    with pytest.raises(kind, match=f"HTTP {status}") as caught:
        await batches_of(host.order())
    assert type(caught.value) is kind


async def test_only_the_certificate_that_was_named_is_accepted(host: PhonyHost, tmp_path: Path) -> None:
    host.stream = stream_of(disk())
    other = tmp_path / "other"
    other.mkdir()
    _, made = certificate(other)
    for trust in (Trust(), Trust(only=made.public_bytes(Encoding.DER))):
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await batches_of(host.order(trust=trust))
    assert host.cookies == [], "the cookie is told to the right host only"
    authority = Trust(ca=ssl.DER_cert_to_PEM_cert(host.trust.only))
    for trust in (authority, Trust(anything=True)):
        assert content(await batches_of(host.order(trust=trust))) == disk()


async def test_silence_is_noticed_on_either_side(host: PhonyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.stream, host.stall = stream_of(disk()), True
    host.cut = [MIB, MIB]
    came = []
    with pytest.raises(TimedOut, match=r"nothing came for 0\.3 s"):  # noqa: PT012 - what came before counts
        async with decoded(host.order(stall_s=0.3)) as batches:
            async for batch in batches:
                came += batch.grains
    assert came
    assert came[0].data == disk()[: len(came[0].data)]
    monkeypatch.setattr(export_link, "START_S", -19.5)
    with pytest.raises(TimedOut, match="said nothing"):
        await batches_of(host.order())
    assert children() == []


async def test_what_nobody_takes_is_not_fetched(host: PhonyHost) -> None:
    truth = random.Random(1).randbytes(48 * MIB)
    host.stream = stream_of(truth)
    async with decoded(host.order()) as batches:
        first = await anext(batches)
        assert first.grains[0].data == truth[:MIB]
        before = -1
        while host.sent != before:
            before = host.sent
            await asyncio.sleep(0.3)
        assert host.sent < 24 * MIB  # what the kernel's buffers of both sockets hold


async def test_a_process_that_is_killed_is_started_again(host: PhonyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "FIRST_PAUSE_S", 0.001)
    truth = disk()
    host.stream, host.stall = stream_of(truth), True
    host.cut = [2 * MIB]
    async with StreamReader(lambda: decoded(host.order()), SIZE, "disk") as reader:
        assert await reader.read_at(0, MIB) == truth[:MIB]
        host.stall = False
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        assert await reader.read_at(MIB, SIZE - MIB) == truth[MIB:]
        assert reader.openings == 2
    assert children() == []


async def test_a_process_that_is_killed_is_unavailable(host: PhonyHost) -> None:
    host.stream, host.stall = stream_of(disk()), True
    host.cut = [2 * MIB]
    async with decoded(host.order()) as batches:
        await anext(batches)
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="without a word"):
            [batch async for batch in batches]


async def test_it_ends_with_its_reader_and_no_secret_can_be_seen(host: PhonyHost) -> None:
    host.stream, host.stall = stream_of(disk()), True
    host.cut = [2 * MIB]
    async with decoded(host.order()) as batches:
        await anext(batches)
        (pid,) = children()
        assert b"a-secret" not in _said(pid, "cmdline") + _said(pid, "environ")
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        began = time.monotonic()
        waiting.cancel()
    assert time.monotonic() - began < 5
    assert children() == []


PARENT = f"""
import asyncio, sys
from {export_link.__name__} import decoded
from {export_messages.__name__} import receive_order
import socket

async def main():
    order = receive_order(socket.socket(fileno=0))
    import os
    async with decoded(order._replace(parent=os.getpid())) as batches:
        await anext(batches)
        for task in os.listdir("/proc/self/task"):
            for pid in open(f"/proc/self/task/{{task}}/children").read().split():
                print(pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_it_dies_with_its_parent(host: PhonyHost) -> None:
    host.stream, host.stall = stream_of(disk()), True
    host.cut = [2 * MIB]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=theirs, stdout=subprocess.PIPE)
        ours.sendall(encode_order(host.order()))
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert export_link.MODULE.encode() in _said(pid, "cmdline")
        parent.kill()
        parent.wait()
        parent.stdout.close()
        deadline = time.monotonic() + 20
        while _said(pid, "cmdline"):
            assert time.monotonic() < deadline, "it outlives its parent"
            time.sleep(0.01)


def test_it_loads_little() -> None:
    """Its start is a part of every export, its memory a part of every disk."""
    heavy = "{'pyVmomi', 'asyncio', 'msgspec', 'grpc', 'structlog'}"
    command = f"import sys, {export_link.MODULE}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, check=True).stdout == b"[]\n"


# ---- the messages -----------------------------------------------------------------------------------------------


@contextmanager
def told(*pieces: bytes) -> Iterator[socket.socket]:
    """A socket where ``pieces`` have come and nothing else will."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b"".join(pieces))
        yield ours


def test_messages_arrive_as_they_were_sent() -> None:
    order = Order("fe80::1", 443, "/nfc/ä", COOKIE, Trust(ca="pem", only=b"\0\xff", anything=True), 60.0, 7)
    with told(encode_order(order)) as link:
        assert receive_order(link) == order
    grains = [Grain(0, b"ab"), Grain(2, b"cd"), Grain(9, b"e")]
    with told(*encode_grains(77, grains), encode_end(77, ended=True), encode_end(77, ended=False)) as link:
        assert receive_batch(link) == Batch(77, [Grain(0, b"abcd"), Grain(9, b"e")])
        assert receive_batch(link) == Batch(77, (), ended=True)
        assert receive_batch(link) is None
    with told(encode_failure(Denied("ä" * 5000))) as link, pytest.raises(Denied, match=r"^ä{1024}$"):
        receive_batch(link)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x01",
        struct.pack("<BQI", 9, 0, 0),
        struct.pack("<BQI", 1, 0, 1 << 31),
        struct.pack("<BQIQI", 1, 0, 1, 0, MAX_BATCH_BYTES + 1),
        struct.pack("<BQI", 3, 0, 1 << 31),
        encode_grains(1, [Grain(0, b"abc")])[0] + b"ab",
    ],
)
def test_what_cannot_be_is_unavailable(packet: bytes) -> None:
    with told(packet) as link, pytest.raises(Unavailable):
        receive_batch(link)


def test_an_order_without_bound_is_refused() -> None:
    with told(struct.pack("<I", 1 << 31)) as link, pytest.raises(Unavailable):
        receive_order(link)
