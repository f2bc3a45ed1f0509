"""Signatures of agents under statements of sealed disks: made with the key that they show in TLS, checked by the CA.

A signature is good for as long as its CA's certificate is known: the signer's own certificate, which lives for hours,
has to be valid at the time that the caller names, not now. Format and limits: docs/design/manifests.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from coriolis.errors import Corrupt, Denied, InvalidInput, Unavailable, Unsupported
from coriolis.rpc.identity import Identity
from coriolis.rpc.tls import read_pem
from coriolis.rpc.tls_files import TlsFiles
from coriolis.transfer.attestation import (
    SIGNED_PREFIX,
    Proof,
    Signed,
    Statement,
    Statements,
    agreed,
    read_statement,
)

MAX_CHAIN = 4
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class Signer:
    """The key and certificate of one process, read once."""

    def __init__(self, tls: TlsFiles) -> None:
        """Raises InvalidInput or Unsupported for files that cannot sign."""
        chain = read_pem(tls.cert)
        try:
            key = serialization.load_pem_private_key(read_pem(tls.key), password=None)
            self.identity = _identity_of(_chain(chain.decode())[0])
        except (ValueError, TypeError) as broken:
            raise InvalidInput(f"the TLS files in {tls.cert.parent} cannot be used to sign: {broken}") from broken
        if not isinstance(key, PrivateKey):
            raise Unsupported(f"{tls.key} is neither an EC, an Ed25519 nor an RSA key; issue another one")
        self._key: PrivateKey = key
        self._chain = chain.decode()

    def sign(self, statement: Statement) -> Signed:
        """``statement.signer`` must be this process's identity."""
        assert statement.signer == str(self.identity), "an agent signs in its own name only"
        text = statement.text()
        return Signed(text, base64.b64encode(_sign(self._key, _signed_bytes(text))).decode(), self._chain)


class Anchors:
    """The CA certificates that signers must lead to. ``pem`` may hold several: an old CA's proofs stay checkable."""

    def __init__(self, pem: bytes) -> None:
        try:
            self._certificates = x509.load_pem_x509_certificates(pem)
        except ValueError as broken:
            raise InvalidInput("the CA file holds no PEM certificate") from broken

    def check(self, signed: Signed, at: datetime | None = None) -> Statement:
        """The statement, when its signer really made it. ``at``: when the certificate has to be valid; None: as stated.

        Raises Corrupt for a signature that does not fit, Denied for a signer that is not an agent of this mesh under
        the name it gives, Unavailable for a certificate that was not valid then.
        """
        statement = read_statement(signed)
        certificates = _chain(signed.certificate)
        identity = _identity_of(certificates[0])
        if str(identity) != statement.signer:
            raise Denied(f"the statement names {statement.signer[:255]}, the certificate {identity}")
        if identity.role != "agent":
            raise Denied(f"{identity} is no agent and cannot attest a disk")
        self._check_chain(certificates, identity, at or _moment(statement.at))
        try:
            signature = base64.b64decode(signed.signature, validate=True)
            _verify(certificates[0], signature, _signed_bytes(signed.statement))
        except (InvalidSignature, binascii.Error, ValueError) as wrong:
            raise Corrupt(f"the signature of {identity} does not fit what it is said to have signed") from wrong
        return statement

    def check_proof(self, proof: Proof) -> Statements:
        """The statements of ``proof``, when all signatures are good and they agree. Raises as ``check``."""
        for part in proof.parts():
            self.check(part)
        return agreed(proof)

    def _check_chain(self, chain: Sequence[x509.Certificate], identity: Identity, at: datetime) -> None:
        for certificate in chain:
            if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
                raise Unavailable(f"a certificate of {identity} was not valid at {at:%Y-%m-%d %H:%M} UTC; renew it")
        for position, certificate in enumerate(chain):
            anchor = next((ca for ca in self._certificates if _issued(certificate, ca)), None)
            if anchor is not None:
                if not anchor.not_valid_before_utc <= at <= anchor.not_valid_after_utc:
                    raise Unavailable(f"the CA of {identity} was not valid at {at:%Y-%m-%d %H:%M} UTC")
                return
            if position + 1 == len(chain) or not _issued(certificate, chain[position + 1]):
                break
        raise Denied(f"the certificate of {identity} was not issued by the CA given")


def same_key(signed: Signed, peer_certificate: bytes) -> bool:
    """Whether the signer holds the key of the certificate (PEM) that a peer showed in TLS."""
    try:
        peer = x509.load_pem_x509_certificate(peer_certificate)
    except ValueError:
        return False
    return _chain(signed.certificate)[0].public_key() == peer.public_key()


def _chain(text: str) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError as broken:
        raise Corrupt("a signer's certificate is not PEM") from broken
    if len(found) > MAX_CHAIN:
        raise Corrupt(f"a signer's chain has {len(found)} certificates, at most {MAX_CHAIN}")
    return found


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return constraints.ca


def _identity_of(certificate: x509.Certificate) -> Identity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError) as broken:
        raise Denied("a signer's certificate carries no identity") from broken
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Denied("a signer's certificate does not carry exactly one identity")
    try:
        return Identity.parse(uris[0])
    except InvalidInput as broken:
        raise Denied("a signer's certificate carries a malformed identity") from broken


def _moment(wire: str) -> datetime:
    try:
        return datetime.fromisoformat(wire).replace(tzinfo=UTC)
    except ValueError as broken:
        raise Corrupt("a statement carries no time") from broken


def _signed_bytes(text: str) -> bytes:
    return SIGNED_PREFIX + text.encode()


def _sign(key: PrivateKey, data: bytes) -> bytes:
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(data, ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PrivateKey():
            return key.sign(data)
        case rsa.RSAPrivateKey():
            return key.sign(data, _PSS, hashes.SHA256())


def _verify(certificate: x509.Certificate, signature: bytes, data: bytes) -> None:
    match certificate.public_key():
        case ec.EllipticCurvePublicKey() as curve:
            curve.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PublicKey() as edwards:
            edwards.verify(signature, data)
        case rsa.RSAPublicKey() as modulus:
            modulus.verify(signature, data, _PSS, hashes.SHA256())
        case _:
            raise InvalidSignature
