"""Sends one disk to the URL of an import lease: POST in chunks over HTTPS, as vSphere's own clients do. Blocking."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from coriolis.convert.text import shown
from coriolis.errors import CoriolisError, Denied, InvalidInput, QuotaExceeded, Throttled, TimedOut, Unavailable
from coriolis.providers.vmware_vsphere.certificate import thumbprint, tls_context
from coriolis.providers.vmware_vsphere.stream_writer import MEDIA_TYPE

STALL_S = 60.0
"""Without any progress for so long, an upload has failed."""
ANSWER_TIMEOUT_S = 600.0
"""The host may still write when the last byte was sent."""
MAX_ANSWER_BYTES = 4096
_THUMBPRINT_LENGTHS = (59, 95)


class DiskUpload:
    """One POST. ``stop`` may be called from any thread; ``send`` then raises soon."""

    def __init__(self, info: Mapping[str, Any], url: str, stated_thumbprint: str) -> None:
        """``stated_thumbprint``: of the host's certificate, as the lease gives it; it comes over a verified session.

        Raises InvalidInput for a URL that is not HTTPS.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise InvalidInput(f"the import lease gives the URL {shown(url)}, which is not HTTPS")
        stated = stated_thumbprint if len(stated_thumbprint) in _THUMBPRINT_LENGTHS else ""
        self._thumbprint = stated or info.get("thumbprint", "")
        here = parts.hostname == "*"  # as ESXi says for itself
        self._host = info["host"] if here else parts.hostname
        self._port = parts.port or (info.get("port", 443) if here else 443)
        self._path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        context = tls_context({"allow_untrusted": True} if stated else info)
        self._connection = http.client.HTTPSConnection(self._host, self._port, timeout=STALL_S, context=context)
        self._stopped = threading.Event()

    @property
    def where(self) -> str:
        return f"{self._host}:{self._port}"

    def stop(self) -> None:
        """Make a running ``send`` fail at once."""
        self._stopped.set()
        if (raw := self._connection.sock) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(raw, socket.SHUT_RDWR)  # an SSLSocket's own drops its state under the sender

    def send(self, pieces: Iterator[bytes]) -> None:
        """Raises TimedOut when it stands still, Denied, Unavailable, QuotaExceeded; what ``pieces`` raises passes."""
        try:
            self._connect()
            self._send(pieces)
        finally:
            self._connection.close()

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                f"the host {self.where} that takes the disk shows a certificate that is not trusted: "
                f"{error.verify_message}; give its authority as ca"
            ) from error
        except OSError as error:
            raise Unavailable(f"the host {self.where}, which takes the disk, cannot be reached: {error}") from error
        if not self._thumbprint:
            return
        certificate = self._connection.sock.getpeercert(binary_form=True) or b""
        if thumbprint(certificate, len(self._thumbprint)) != self._thumbprint.upper():
            raise Denied(f"the host {self.where}, which takes the disk, has another certificate than was stated")

    def _send(self, pieces: Iterator[bytes]) -> None:
        self._connection.putrequest("POST", self._path)
        self._connection.putheader("Content-Type", MEDIA_TYPE)
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._network(self._connection.endheaders)
        for piece in pieces:
            self._network(self._connection.send, b"%x\r\n%b\r\n" % (len(piece), piece))
        self._network(self._connection.send, b"0\r\n\r\n")
        self._connection.sock.settimeout(ANSWER_TIMEOUT_S)
        self._end()

    def _network(self, call: Callable[..., None], *data: bytes) -> None:
        self._check()
        try:
            call(*data)
        except TimeoutError as error:
            raise TimedOut(f"the upload to {self.where} stood still for {STALL_S:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            self._check()
            raise self._early_answer() or Unavailable(f"the upload to {self.where} was cut: {error}") from error

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Unavailable(f"the upload to {self.where} was stopped")

    def _early_answer(self) -> CoriolisError | None:
        """A host that refuses closes the connection in mid-upload; its reason may still be there to read."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._connection.sock.settimeout(2.0)
            answer = self._connection.getresponse()
            return refusal(answer.status, answer.read(MAX_ANSWER_BYTES), self.where)
        return None

    def _end(self) -> None:
        try:
            answer = self._connection.getresponse()
            said = answer.read(MAX_ANSWER_BYTES)
        except TimeoutError as error:
            raise TimedOut(f"{self.where} did not confirm the upload within {ANSWER_TIMEOUT_S:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            self._check()
            raise Unavailable(f"{self.where} did not confirm the upload: {error or type(error).__name__}") from error
        if not 200 <= answer.status < 300:
            raise refusal(answer.status, said, self.where)


def refusal(status: int, text: bytes, where: str) -> CoriolisError:
    """What an HTTP status of an upload means."""
    said = f"HTTP {status} {shown(text.decode('utf-8', 'replace').strip())}".strip()
    match status:
        case 401 | 403:
            return Denied(f"{where} refuses the disk ({said}): VApp.Import and Datastore.AllocateSpace are needed")
        case 429 | 503:
            return Throttled(f"{where} is too busy to take the disk ({said})")
        case 507:
            return QuotaExceeded(f"the datastore behind {where} is full ({said})")
        case _:
            return Unavailable(f"{where} did not take the disk ({said})")
