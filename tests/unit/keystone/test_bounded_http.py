"""Which authorities identity and services of a cloud are checked against."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("coriolis.keystone")  # before keystoneauth1, see there
from keystoneauth1 import exceptions, session

from coriolis.keystone.bounded_http import bounded_session, system_authorities
from coriolis.security.pki import create_ca, issue


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL of a service whose certificate is of a private authority, and that authority's."""
    folder = tmp_path_factory.mktemp("cloud")
    authority = create_ca(folder / "ca", "cloud.test")
    files = issue(folder / "ca", folder / "server", "spiffe://cloud.test/gateway/g-1", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", authority
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url: str, verify: bool | str) -> int:
    used = session.Session(session=bounded_session(), verify=verify)
    return int(used.get(url, authenticated=False).status_code)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_hosts_authorities_are_trusted(
    cloud: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """An authority that the operator added to the host serves, without any ``ca``: a job's trust can name none."""
    url, authority = cloud
    place = {"SSL_CERT_FILE": str(tmp_path / "none"), "SSL_CERT_DIR": str(tmp_path)}
    for name, path in place.items():
        monkeypatch.setenv(name, path)
    with pytest.raises(exceptions.SSLError):
        ask(url, True)
    assert ask(url, str(authority)) == 200
    if kind == "file":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    else:
        assert system_authorities() == ""
        argv = ["openssl", "x509", "-hash", "-noout", "-in", str(authority)]
        name = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        (tmp_path / f"{name}.0").write_bytes(authority.read_bytes())
        assert system_authorities() == str(tmp_path)
    assert ask(url, True) == 200
