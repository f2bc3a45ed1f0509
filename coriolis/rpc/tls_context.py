"""mTLS for plain sockets: the same CA, certificates and identities as gRPC's channels and servers use."""

from __future__ import annotations

import ssl
from typing import Any

from coriolis.errors import InvalidInput, Unauthenticated
from coriolis.rpc.identity import Identity
from coriolis.rpc.tls import TlsFiles


def client_context(tls: TlsFiles) -> ssl.SSLContext:
    """Trusts only ``tls.ca`` and shows ``tls.cert``; give ``identity_dns_name(identity)`` as ``server_hostname``."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, tls)


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """A client without a certificate of ``tls.ca`` is refused in the handshake. Read anew per call: renewals count."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: int, tls: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(tls.ca)
        context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as broken:
        raise InvalidInput(f"TLS files of {tls.cert.parent} cannot be used: {broken}") from broken
    return context


def certificate_identity(certificate: Any) -> Identity:
    """Of what ``SSLObject.getpeercert()`` gives. Unauthenticated without exactly one SPIFFE URI."""
    names = certificate.get("subjectAltName", ()) if certificate else ()
    uris = [value for kind, value in names if kind == "URI" and value.startswith("spiffe://")]
    if len(uris) != 1:
        raise Unauthenticated("the peer showed no certificate of this mesh")
    try:
        return Identity.parse(uris[0])
    except InvalidInput as error:
        raise Unauthenticated("the peer's certificate carries a malformed identity") from error
