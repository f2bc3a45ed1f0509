"""Which certificate of an endpoint is accepted: by the system's or given authorities, by thumbprint, or any."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from coriolis.errors import Denied, InvalidInput, TimedOut, Unavailable

CONNECT_TIMEOUT_S = 15.0
_ALGORITHMS = {59: "sha1", 95: "sha256"}
"""By the length of a thumbprint written in pairs with colons."""


class Trust(NamedTuple):
    """What is accepted: ``only`` this certificate (DER), whoever signed it and for whatever name; those of an authority
    ``ca`` (PEM); ``anything``; by default those of the system's authorities."""

    ca: str = ""
    only: bytes = b""
    anything: bool = False

    def context(self) -> ssl.SSLContext:
        """For connections. Raises InvalidInput for a CA that is none."""
        if not self.ca and not self.only:
            context = ssl.create_default_context()
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            try:
                context.load_verify_locations(cadata=self.ca)
            except ssl.SSLError as error:
                raise InvalidInput("connection_info.ca holds no certificate that can be read") from error
        if self.only:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=self.only)
        if self.anything:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def stated_trust(info: Mapping[str, Any]) -> Trust:
    """Of a ``connection_info``; with a thumbprint anything, until ``checked_trust`` has seen the certificate."""
    return Trust(ca=info.get("ca") or "", anything=bool(info.get("allow_untrusted") or info.get("thumbprint")))


def tls_context(info: Mapping[str, Any]) -> ssl.SSLContext:
    """For connections to the endpoint of a ``connection_info``. Raises InvalidInput for a CA that is none."""
    return stated_trust(info).context()


def thumbprint(certificate: bytes, length: int) -> str:
    """Of a DER certificate, in capitals with colons; ``length`` of the text chooses SHA-1 or SHA-256."""
    digest = hashlib.new(_ALGORITHMS[length], certificate, usedforsecurity=False).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def fetch_certificate(host: str, port: int, trust: Trust) -> bytes:
    """The certificate (DER) that a server shows now. Blocking. Raises Denied when it is not trusted, Unavailable."""
    context = trust.context()
    try:
        with (
            socket.create_connection((host, port), CONNECT_TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=host) as connection,
        ):
            return connection.getpeercert(binary_form=True) or b""
    except ssl.SSLCertVerificationError as error:
        raise Denied(f"{host}:{port} shows a certificate that is not trusted ({error.verify_message})") from error
    except OSError as error:
        raise Unavailable(f"{host}:{port} cannot be reached: {error}") from error


def checked_trust(info: Mapping[str, Any]) -> Trust:
    """For all connections to the endpoint, after one that told what is wrong in the user's words, before any password
    is sent.

    Raises InvalidInput (the CA), Unavailable (unknown host, nobody listens), TimedOut, Denied (the certificate).
    """
    trust = stated_trust(info)
    context = trust.context()
    host, port = info["host"], info["port"]
    where = f"{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), CONNECT_TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=host) as connection,
        ):
            certificate = connection.getpeercert(binary_form=True) or b""
    except socket.gaierror as error:
        raise Unavailable(f"vSphere at {where}: the host name is unknown to this agent: {error.strerror}") from error
    except TimeoutError as error:
        raise TimedOut(f"vSphere at {where} did not answer within {CONNECT_TIMEOUT_S:.0f} s") from error
    except ssl.SSLCertVerificationError as error:
        raise Denied(
            f"vSphere at {where}: its certificate is not trusted ({error.verify_message}): give its authority as ca or "
            "its thumbprint, or set allow_untrusted"
        ) from error
    except OSError as error:
        raise Unavailable(f"vSphere at {where} cannot be reached: {error}") from error
    wanted = info.get("thumbprint")
    if wanted and thumbprint(certificate, len(wanted)) != wanted.upper():
        found = thumbprint(certificate, len(wanted))
        raise Denied(f"vSphere at {where}: its certificate has the thumbprint {found}, not the given one")
    return Trust(only=certificate) if wanted else trust
