"""A TLS proxy before one vcsim that adds what a real vCenter has and vcsim lacks. Ours, hence its name.

Real, that is govmomi's: inventory, logins, tasks, power, the tree of snapshots, networks, ``/folder`` with its ranges,
leases and their URLs. Phony: ``QueryChangedDiskAreas``, change ids, snapshots that freeze bytes, ``ExportVm``, the
bytes of leases, sessions that expire and are asked for on ``/folder`` and ``/nfc``, extents that a running machine
locks, guests that ignore a shutdown, and every fault a test asks for (``vsphere_phony_faults``).
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.lab.vcsim import Simulator
from tests.lab.vsphere_phony_calls import PhonyCalls, fault, method_of
from tests.lab.vsphere_phony_faults import Faults
from tests.lab.vsphere_phony_leases import PhonyLeases
from tests.lab.vsphere_phony_machines import Machines, PhonyFault
from tests.lab.vsphere_phony_sessions import Sessions

PIECE = 1 << 20
TIMEOUT_S = 120.0
HOLD_S = 60.0
"""A held request goes on after so long, whatever its test does."""
MAX_CALLS = 200_000
MAX_SOAP_BYTES = 64 << 20
_UNAUTHENTICATED = re.compile(r"Login|RetrieveServiceContent$")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "host", "content-length"}


class Call(NamedTuple):
    """``request``: ``SOAP PowerOnVM_Task vm-42`` or ``GET /folder/x``. ``status``: 0 when nothing was answered."""

    request: str
    range: str
    status: int


class PhonyVcenter:
    """``folder_locks``: ``live`` refuses extents that a running machine writes to, ``chain`` all extents of a running
    machine (as standard ESXi does with a chain of snapshots), ``none`` nothing.
    """

    def __init__(self, listening: socket.socket, certificate: Path, directory: Path) -> None:
        self.faults, self.sessions = Faults(), Sessions()
        self.calls: deque[Call] = deque(maxlen=MAX_CALLS)
        self.folder_locks = "live"
        self.nfc_needs_login = True
        self.closing = threading.Event()
        self.directory = directory
        self.simulator: Simulator
        self.machines: Machines
        self.leases: PhonyLeases
        self.answers: PhonyCalls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server = _Server(listening, context, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="phony-vcenter", daemon=True
        )

    def start(self, simulator: Simulator, machines: Machines) -> None:
        self.simulator, self.machines = simulator, machines
        self.leases = PhonyLeases(simulator, machines, self.directory)
        self.answers = PhonyCalls(machines, self.leases, self.sessions)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(TIMEOUT_S)
        self._server.end_connections()
        self._server.server_close()
        if hasattr(self, "leases"):
            self.leases.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listening: socket.socket, context: ssl.SSLContext, site: PhonyVcenter) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        listening.listen(self.request_queue_size)
        self.context, self.site = context, site
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The handshake is the connection's own affair: none waits for another's."""
        request.settimeout(TIMEOUT_S)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            request = self.context.wrap_socket(request, server_side=True)
        except OSError:
            request.close()
            return
        with self._lock:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)

    def end_connections(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a mistake in the lab and is shown."""
        import sys
        import traceback

        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()


class _Broken(OSError):
    """The connection is to be cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = 0

    def setup(self) -> None:
        super().setup()
        self.site = self.server.site
        self._upstream: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """``site.calls`` holds them."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

    def _serve(self) -> None:
        self.status = 0
        self.target = unquote(self.path)
        with tempfile.TemporaryFile(dir=self.site.directory) as body:
            self._receive(body)
            soap = self.command == "POST" and urlsplit(self.path).path.startswith("/sdk")
            self.request = f"{self.command} {self.target}"
            text = b""
            if soap:
                text = body.read(MAX_SOAP_BYTES)
                method, this = method_of(text)
                self.request = f"SOAP {method} {this}"
            try:
                self._with_faults(body, text, soap)
            except _Broken:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            finally:
                self.site.calls.append(Call(self.request, self.headers.get("Range", ""), self.status))

    def _with_faults(self, body: IO[bytes], text: bytes, soap: bool) -> None:
        faults = self.site.faults
        if rule := faults.take("stall", self.request):
            self.site.closing.wait(rule.value)
        if rule := faults.take("hold", self.request):
            rule.value.reached.set()
            rule.value.go_on.wait(HOLD_S)
        if rule := faults.take("http", self.request):
            self._answer(rule.value, rule.text.encode(), "text/html")
        elif soap:
            self._soap(text)
        elif self.target.startswith("/folder"):
            self._folder(body)
        elif self.target.startswith("/nfc/"):
            self._nfc(body)
        else:
            self._pass_on(body)

    # the API

    def _soap(self, text: bytes) -> None:
        site = self.site
        site.sessions.called()
        cookie, method = self.headers.get("Cookie"), self.request.split(" ")[1]
        good = site.sessions.good(cookie)
        try:
            if not good and not _UNAUTHENTICATED.match(method):
                raise PhonyFault("NotAuthenticated", "The session is not authenticated.", _VIEW)
            if rule := site.faults.take("soap", self.request):
                raise PhonyFault(rule.value[0], rule.text, rule.value[1])
            headers, answer, status = site.answers.answer(self.request, text, lambda sent: self._ask(sent, good))
        except PhonyFault as error:
            headers, answer, status = {}, fault(error), 500
        if set_cookie := headers.get("Set-Cookie"):
            site.sessions.login(set_cookie)
        if method == "Logout":
            site.sessions.end(cookie)
        self._answer(status, answer, "text/xml; charset=utf-8", {"Set-Cookie": set_cookie} if set_cookie else {})

    def _ask(self, text: bytes, good: bool) -> tuple[dict[str, str], bytes, int]:
        answer = self._forward(text, good)
        headers = dict(answer.getheaders())
        return headers, answer.read(), answer.status

    # files

    def _folder(self, body: IO[bytes]) -> None:
        site = self.site
        if not site.sessions.good(self.headers.get("Cookie")):
            self._answer(401, b"Unauthorized", "text/html", {"WWW-Authenticate": 'Basic realm="VMware HTTP server"'})
            return
        if self.command in ("GET", "HEAD") and self._locked():
            # hostd's words, as far as they are known, for an extent whose lock another holds
            self._answer(500, b"Failed to open file: Device or resource busy", "text/plain")
            return
        self._pass_on(body)

    def _locked(self) -> bool:
        site, parts = self.site, urlsplit(self.path)
        if site.folder_locks == "none" or not parts.path.endswith(("-flat.vmdk", "-delta.vmdk")):
            return False
        datastore = parse_qs(parts.query).get("dsName", [""])[0]
        found = site.machines.by_file(datastore, unquote(parts.path).removeprefix("/folder/"))
        if found is None or not site.answers.is_running(found[0].id):
            return False
        return site.folder_locks == "chain" or found[2] == len(found[1].deltas)

    def _nfc(self, body: IO[bytes]) -> None:
        site = self.site
        if site.nfc_needs_login and not site.sessions.good(self.headers.get("Cookie")):
            self._answer(401, b"Unauthorized", "text/html")
            return
        lease, _, name = self.target.removeprefix("/nfc/").partition("/")
        if self.command in ("PUT", "POST"):
            site.leases.uploaded(lease, name, body)
            self._pass_on(body)
            return
        found = site.leases.stream(lease, name)
        if found is None:
            self._answer(404, b"Not Found", "text/html")
            return
        self._head(200, {"Content-Type": "application/x-vnd.vmware-streamVmdk", "Transfer-Encoding": "chunked"})
        with contextlib.closing(found):
            for piece in self._measured(found):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    # HTTP

    def _pass_on(self, body: IO[bytes]) -> None:
        body.seek(0)
        answer = self._forward(body, True)
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        length = answer.getheader("Content-Length")
        if length is None and self.command != "HEAD":
            self._answer(answer.status, answer.read(), kept.pop("Content-Type", "text/plain"), kept)
            return
        self._head(answer.status, {**kept, "Content-Length": length or "0"})
        if self.command == "HEAD":
            answer.read()
            return
        try:
            for piece in self._measured(iter(lambda: answer.read(PIECE), b"")):
                self.wfile.write(piece)
        except BaseException:
            self._drop_upstream()
            raise

    def _measured(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The body with the faults of its way."""
        cut, slow = self.site.faults.take("cut", self.request), self.site.faults.take("slow", self.request)
        sent, started = 0, time.monotonic()
        for piece in pieces:
            for part in _parts(piece, int(slow.value / 10) + 1 if slow else len(piece)):
                if cut and sent + len(part) >= cut.value:
                    yield part[: max(1, cut.value - sent)]
                    raise _Broken
                yield part
                sent += len(part)
                if slow and self.site.closing.wait(max(0.0, started + sent / slow.value - time.monotonic())):
                    raise _Broken

    def _forward(self, body: bytes | IO[bytes], good: bool) -> http.client.HTTPResponse:
        """To vcsim; once more on a new connection when the kept one has ended."""
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        if not good:
            headers.pop("Cookie", None)  # vcsim has forgotten nothing, and refuses a login within a login
        if isinstance(body, bytes):
            headers["Content-Length"] = str(len(body))
        elif self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(body.seek(0, 2))
        for again in (True, False):
            if not isinstance(body, bytes):
                body.seek(0)
            try:
                if self._upstream is None:
                    self._upstream = http.client.HTTPConnection(
                        self.site.simulator.host, self.site.simulator.port, timeout=TIMEOUT_S
                    )
                self._upstream.request(
                    self.command, self.path, body if self.command in ("PUT", "POST") else None, headers
                )
                return self._upstream.getresponse()
            except (OSError, http.client.HTTPException):
                self._drop_upstream()
                if not again:
                    raise
        raise AssertionError("unreachable")

    def _drop_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def _receive(self, body: IO[bytes]) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                shutil.copyfileobj(_Limited(self.rfile, size), body, PIECE)
                self.rfile.readline()
            self.rfile.readline()
        else:
            shutil.copyfileobj(_Limited(self.rfile, int(self.headers.get("Content-Length") or 0)), body, PIECE)
        body.seek(0)

    def _answer(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self._head(status, {**(headers or {}), "Content-Type": kind, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            for piece in self._measured(iter([body])):
                self.wfile.write(piece)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.wfile.write(f"HTTP/1.1 {status} {http.client.responses.get(status, '')}\r\n{text}\r\n".encode("latin-1"))


_VIEW = "<object type='Folder'>group-d1</object><privilegeId>System.View</privilegeId>"


class _Limited:
    def __init__(self, file: Any, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int) -> bytes:
        piece: bytes = self._file.read(min(size, self._left))
        if not piece and self._left:
            raise _Broken("the client went away")
        self._left -= len(piece)
        return piece


def _parts(piece: bytes, size: int) -> Iterator[bytes]:
    if len(piece) <= size:
        yield piece
        return
    for at in range(0, len(piece), size):
        yield piece[at : at + size]
