"""Uploads to a phony host over TLS: refusals, stalls, wrong certificates, stops."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from coriolis.errors import CoriolisError, Denied, InvalidInput, QuotaExceeded, Throttled, TimedOut, Unavailable
from coriolis.providers.vmware_vsphere import disk_upload
from coriolis.providers.vmware_vsphere.certificate import Trust, fetch_certificate, thumbprint
from coriolis.providers.vmware_vsphere.disk_upload import DiskUpload

Serve = Callable[[ssl.SSLSocket], None]
PIECE = bytes(65536)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject]
    subprocess.run([*argv, "-keyout", str(path), "-out", f"{path}.crt"], check=True, capture_output=True, timeout=30)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def thumbprint_of(certificate: Path) -> str:
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text()[certificate.read_text().index("-----BEGIN CERT") :])
    digest = hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, 40, 2))


@pytest.fixture
def phony_host(certificate: Path) -> Iterator[Callable[[Serve], str]]:
    """Serves one connection by the given function; gives the URL."""
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def start(serve: Serve) -> str:
        def run() -> None:
            raw, _ = listener.accept()
            try:
                with context.wrap_socket(raw, server_side=True) as connection:
                    connection.settimeout(20)
                    serve(connection)
            except OSError:
                raw.close()

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return f"https://localhost:{listener.getsockname()[1]}/nfc/1/disk.vmdk"

    yield start
    listener.close()
    for thread in threads:
        thread.join(20)


def read_request(connection: ssl.SSLSocket) -> tuple[bytes, bytes]:
    """(head, body) of a request in chunks."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        if not (more := connection.recv(1 << 20)):
            raise ConnectionError("the client went away")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    body = b""
    while rest[:3] != b"0\r\n":
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return head, body


def test_the_request_is_what_vsphere_expects(phony_host: Callable[[Serve], str]) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def serve(connection: ssl.SSLSocket) -> None:
        seen.append(read_request(connection))
        connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    url = phony_host(serve)
    DiskUpload({"host": "localhost", "allow_untrusted": True}, url, "").send(iter([b"one", b"two" * 50_000, b"3"]))
    head, body = seen[0]
    assert head.startswith(b"POST /nfc/1/disk.vmdk HTTP/1.1\r\n")
    assert b"Content-Type: application/x-vnd.vmware-streamVmdk" in head
    assert body == b"one" + b"two" * 50_000 + b"3"


@pytest.mark.parametrize(
    ("status", "error"), [(401, Denied), (403, Denied), (503, Throttled), (507, QuotaExceeded), (500, Unavailable)]
)
def test_an_early_refusal_is_told_with_its_reason(
    phony_host: Callable[[Serve], str], status: int, error: type[CoriolisError]
) -> None:
    def serve(connection: ssl.SSLSocket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 7\r\n\r\nbecause" % status)
        time.sleep(0.3)  # then closed, with the client's bytes unread

    upload = DiskUpload({"host": "localhost", "allow_untrusted": True}, phony_host(serve), "")
    with pytest.raises((error, Unavailable)) as caught:
        upload.send(repeat(PIECE, 2000))
    assert type(caught.value) is error, caught.value.message
    assert "because" in caught.value.message


def test_an_upload_that_stands_still_has_failed(
    phony_host: Callable[[Serve], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_upload, "STALL_S", 0.3)
    done = threading.Event()
    upload = DiskUpload(
        {"host": "localhost", "allow_untrusted": True}, phony_host(lambda _: done.wait(20) and None), ""
    )
    try:
        with pytest.raises(TimedOut, match="stood still"):
            upload.send(repeat(PIECE))
    finally:
        done.set()


def test_a_stop_ends_a_blocked_upload_at_once(phony_host: Callable[[Serve], str]) -> None:
    done = threading.Event()
    upload = DiskUpload(
        {"host": "localhost", "allow_untrusted": True}, phony_host(lambda _: done.wait(20) and None), ""
    )
    threading.Timer(0.5, upload.stop).start()
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="was stopped"):
            upload.send(repeat(PIECE))
    finally:
        done.set()
    assert time.monotonic() - began < 10


def test_certificates(phony_host: Callable[[Serve], str], certificate: Path) -> None:
    def serve(connection: ssl.SSLSocket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    url = phony_host(serve)
    stated = thumbprint_of(certificate)
    other = ("11" if stated.startswith("00") else "00") + stated[2:]
    # The lease's word, which came over a verified session, decides over what the connection's own rule would say.
    with pytest.raises(Denied, match="another certificate"):
        DiskUpload({"host": "localhost", "allow_untrusted": True}, url, other).send(iter([PIECE]))
    url = phony_host(serve)
    DiskUpload({"host": "localhost", "thumbprint": other}, url, stated).send(iter([PIECE]))


def test_an_untrusted_host_is_refused(phony_host: Callable[[Serve], str]) -> None:
    url = phony_host(lambda connection: None)
    with pytest.raises(Denied, match=r"not trusted.*give its authority as ca"):
        DiskUpload({"host": "localhost"}, url, "").send(iter([PIECE]))


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://*/nfc/1/d.vmdk", "vc.example:8443"),
        ("https://*:444/nfc/1/d.vmdk", "vc.example:444"),
        ("https://esx1/nfc/1/d.vmdk", "esx1:443"),
    ],
)
def test_a_star_stands_for_the_endpoint(url: str, where: str) -> None:
    assert DiskUpload({"host": "vc.example", "port": 8443}, url, "").where == where


def test_only_https() -> None:
    for url in ("http://esx1/nfc/1/d.vmdk", "file:///etc/passwd", "nonsense"):
        with pytest.raises(InvalidInput, match="not HTTPS"):
            DiskUpload({"host": "h"}, url, "")


def test_a_certificate_that_others_are_told_to_trust_is_verified(
    certificate: Path, phony_host: Callable[[Serve], str]
) -> None:
    """VDDK sends the password to whoever has it: who comes between login and reading must not name his own."""
    pem = certificate.read_text()[certificate.read_text().index("-----BEGIN CERT") :]
    for trust in (Trust(ca=pem), Trust(only=ssl.PEM_cert_to_DER_cert(pem)), Trust(anything=True)):
        port = urlsplit(phony_host(lambda _: None)).port
        assert port is not None
        assert thumbprint(fetch_certificate("localhost", port, trust), 59) == thumbprint_of(certificate)
    port = urlsplit(phony_host(lambda _: None)).port
    assert port is not None
    with pytest.raises(Denied, match="not trusted"):
        fetch_certificate("localhost", port, Trust())
