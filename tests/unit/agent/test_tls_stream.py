"""The direct transport's TLS: both sides must be exactly who was assigned, by TLS 1.3, and a cut is not an end."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coriolis.agent.lanes import tls_stream
from coriolis.agent.lanes.tls_stream import TlsReceiver, client_context, dial, server_context
from coriolis.errors import CoriolisError, Denied, Unavailable
from coriolis.rpc.identity import identity_dns_name
from coriolis.rpc.tls import TlsFiles
from tests.unit.agent.pair import agent, certificates

Tls = dict[str, TlsFiles]


class Server:
    """One connection, served in a thread: ``outcome`` is what ``serve`` returned or raised."""

    def __init__(self, tls: TlsFiles, serve: Callable[[TlsReceiver], object]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._tls, self._serve = tls, serve
        self.outcome: object = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        stream = TlsReceiver(connection, server_context(self._tls))
        try:
            self.outcome = self._serve(stream)
        except CoriolisError as failed:
            self.outcome = failed
        finally:
            stream.close()

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._listener.close()


def read(count: int) -> Callable[[TlsReceiver], object]:
    """Serve: (who it is, whether anything came, what came)."""

    def serve(stream: TlsReceiver) -> object:
        who = stream.handshake()
        buffer = bytearray(count)
        return who, stream.read_into(memoryview(buffer)), bytes(buffer)

    return serve


def test_the_assigned_two_meet(tls: Tls) -> None:
    with Server(tls["sink"], read(5)) as server:
        connection = dial(server.address, tls["source"], agent("sink"), long_path=True)
        assert connection.version() == "TLSv1.3"
        connection.sendall(b"hello")
        server._thread.join(5)
        connection.close()
    assert server.outcome == (agent("source"), True, b"hello")


@pytest.mark.parametrize("size", [1, 16 << 10, tls_stream.READ_BYTES, 3 * tls_stream.READ_BYTES + 7])
def test_any_length_is_filled_exactly(tls: Tls, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    with Server(tls["sink"], read(size)) as server:
        connection = dial(server.address, tls["source"], agent("sink"))
        connection.sendall(data[:size])
        server._thread.join(5)
        connection.close()
    assert server.outcome == (agent("source"), True, data[:size])


def test_another_sink_gets_nothing(tls: Tls) -> None:
    with Server(tls["stranger"], read(1)) as server, pytest.raises(Denied, match="is not"):
        dial(server.address, tls["source"], agent("sink"))
    assert isinstance(server.outcome, CoriolisError)


def test_a_sink_of_another_mesh_gets_nothing(tls: Tls, tmp_path: Path) -> None:
    other = certificates(tmp_path, "sink")
    with Server(other["sink"], read(1)) as server, pytest.raises(Denied):
        dial(server.address, tls["source"], agent("sink"))
    assert isinstance(server.outcome, CoriolisError)


def test_a_source_is_known_by_its_certificate(tls: Tls) -> None:
    """Who may send is the caller's decision (``SinkHost``); here it learns who it is."""
    with Server(tls["sink"], read(1)) as server:
        dial(server.address, tls["stranger"], agent("sink")).close()
    assert isinstance(server.outcome, Unavailable), "closed without an end in order"
    with Server(tls["sink"], lambda stream: stream.handshake()) as server:
        dial(server.address, tls["stranger"], agent("sink")).close()
    assert server.outcome == agent("stranger")


@contextmanager
def raw_client(address: str, context: ssl.SSLContext) -> Iterator[None]:
    """A client that is not ours, for as long as the server lets it."""
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            context.wrap_socket(plain, server_hostname=identity_dns_name(agent("sink"))) as secure,
        ):
            secure.sendall(b"x")
            secure.recv(1)  # TLS 1.3 tells a refused client only now
    except OSError:
        pass
    yield


def anonymous(tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.ca)
    return context


def of_another_mesh(tls: TlsFiles, other: TlsFiles) -> ssl.SSLContext:
    context = anonymous(tls)
    context.load_cert_chain(other.cert, other.key)
    return context


def of_tls_12(tls: TlsFiles) -> ssl.SSLContext:
    context = client_context(tls)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("who", ["without a certificate", "of another mesh", "by TLS 1.2"])
def test_clients_that_prove_nothing_are_refused(tls: Tls, tmp_path: Path, who: str) -> None:
    context = {
        "without a certificate": lambda: anonymous(tls["source"]),
        "of another mesh": lambda: of_another_mesh(tls["source"], certificates(tmp_path, "source")["source"]),
        "by TLS 1.2": lambda: of_tls_12(tls["source"]),
    }[who]()
    with Server(tls["sink"], read(1)) as server, raw_client(server.address, context):
        pass
    assert isinstance(server.outcome, Denied), server.outcome


def test_a_server_of_tls_12_is_refused(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    def old(files: TlsFiles) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(files.cert, files.key)
        return context

    monkeypatch.setitem(globals(), "server_context", old)
    with Server(tls["sink"], read(1)) as server, pytest.raises(Unavailable, match="TLS"):
        dial(server.address, tls["source"], agent("sink"))
    assert isinstance(server.outcome, CoriolisError)


@pytest.mark.parametrize("sent", [0, 1, 9])
def test_a_cut_is_no_end_wherever_it_comes(tls: Tls, sent: int) -> None:
    with Server(tls["sink"], read(10)) as server:
        connection = dial(server.address, tls["source"], agent("sink"))
        connection.sendall(b"x" * sent)
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # no close_notify
        connection.close()
    assert isinstance(server.outcome, Unavailable)


def test_an_end_in_order_is_one_between_frames_only(tls: Tls) -> None:
    with Server(tls["sink"], read(10)) as server:
        dial(server.address, tls["source"], agent("sink")).unwrap().close()
    assert server.outcome == (agent("source"), False, bytes(10))
    with Server(tls["sink"], read(10)) as server:
        connection = dial(server.address, tls["source"], agent("sink"))
        connection.sendall(b"x" * 9)
        connection.unwrap().close()
    assert isinstance(server.outcome, Unavailable)
    assert "middle" in server.outcome.message


def test_a_sink_that_is_not_there_is_unavailable(tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(Unavailable):
            dial(address, tls["source"], agent("sink"))


def test_what_waits_is_told_from_what_is_yet_to_come(tls: Tls) -> None:
    def serve(stream: TlsReceiver) -> object:
        stream.handshake()
        buffer = memoryview(bytearray(4))
        stream.read_into(buffer[:2])
        first = stream.more_comes()
        stream.read_into(buffer[2:])
        return first, stream.more_comes()

    with Server(tls["sink"], serve) as server:
        connection = dial(server.address, tls["source"], agent("sink"))
        connection.sendall(b"abcd")
        server._thread.join(5)
        connection.close()
    assert server.outcome == (True, False)
